"""later"""
def submit(study, out, flags): raise NotImplementedError
