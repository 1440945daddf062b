"""What holds a model to the one that its run started from, on inputs that it is not trained on."""
