"""The teacher's moving average over all parameters of the model."""

from __future__ import annotations

import measure
import step
import straightforward

from open_clip_ext.teacher import EMATeacher


def compare(tiny: bool, pairs: int) -> dict:
    model = step.create(tiny).to(measure.DEVICE)
    teacher = EMATeacher(model)
    found = measure.in_turns(
        lambda: straightforward.move_teacher(teacher.module, model, teacher.decay),
        lambda: teacher.update(model),
        pairs,
        "teacher",
    )
    parameters = list(model.parameters())
    return found | {"tensors": len(parameters), "parameters": sum(p.numel() for p in parameters)}
