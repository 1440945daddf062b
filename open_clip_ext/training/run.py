"""One training run under `--loss`: everything that must outlive a single call of upstream's."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from open_clip_ext import __version__, registry
from open_clip_ext.errors import InputError, TrainingError, exit_on_error
from open_clip_ext.model.checkpoints import has_bias
from open_clip_ext.model.dense import DenseTokens
from open_clip_ext.model.forward import extend_forward, extension_of, unwrap
from open_clip_ext.model.text_trimming import tower_of, trim
from open_clip_ext.texts import image_kind
from open_clip_ext.training import kinds, ranks
from open_clip_ext.training.config import Settings
from open_clip_ext.training.generations import Generations

# Key in `checkpoint["optimizer"]`, and the format of what lies there.
STATE_KEY = "open_clip_ext"
STATE_FORMAT = 1


class Run:
    """The armed model, the loss, the teacher and their state, in the order upstream meets them.

    `restore` (if a checkpoint is resumed), `build_loss`, `begin` before the first epoch,
    `begin_epoch` before each; from then on hooks on the optimizer do the rest.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.steps = 0
        # Whatever keeps the contract: their methods are more than nn.Module declares.
        self.loss: Any = None
        self.teacher: Any = None
        self.anchor: Any = None
        self.model: Any = None
        self.generations: Generations | None = None
        # Names of the parameters in each group of the optimizer that a resumed checkpoint is of.
        self.groups: list[list[str]] | None = None
        self._restored: Mapping[str, Any] | None = None
        # Calls of the loss since the last step, and how many there may be before the next one.
        self._loss_calls = 0
        self._patience = math.inf

    def restore(
        self, optimizer_state: dict[str, Any] | None, path: str, *, latest: bool = False
    ) -> Mapping[str, Any] | None:
        """Take out of a checkpoint's optimizer state what is ours.

        The checkpoint of a run without `--loss` has nothing of ours, so no run with anchors goes on from it.

        Args:
            optimizer_state: as the checkpoint has it; our part is taken out.
            path: of the checkpoint.
            latest: whether it was found by `--resume latest`, so must be of this very run.

        Returns:
            The position in an epoch that it was written at; None after an epoch.

        Raises InputError if it is of another loss, model or data, of a format that this version does not
        know, or without the anchor that this run needs.
        """
        state = optimizer_state.pop(STATE_KEY, None) if isinstance(optimizer_state, dict) else None
        if state is None:
            # Weights alone are where a run starts; an optimizer beside them belongs to another run.
            if optimizer_state is not None and self.settings.anchored:
                raise _without_anchors(path)
            return None
        wanted = self.settings.identity()
        if state.get("format") != STATE_FORMAT:
            raise InputError(
                f"{path}: its open_clip_ext state has format {state.get('format')}, written by "
                f"version {state.get('version')}; version {__version__} reads format {STATE_FORMAT}"
            )
        if state["loss"] != wanted["loss"]:
            raise InputError(
                f"{path}: a checkpoint of --loss {state['loss']}, resumed with --loss {wanted['loss']}; "
                f"{_anew(path)}"
            )
        if state["companions"] != wanted["companions"]:
            raise InputError(
                f"{path}: a run with companions {state['companions']}, resumed with "
                f"{wanted['companions']}; {_same_counts(state['companions'], wanted['companions'], path)}"
            )
        had, has = state.get("companion_images", {}), wanted.get("companion_images", {})
        if had != has:
            raise InputError(
                f"{path}: a run with companion images {had or 'none'}, resumed with {has or 'none'}; "
                f"{_same_counts(_images(had), _images(has), path)}"
            )
        # Versions before 0.2 wrote none of these.
        old = {"origin": self.settings.origin, "position": None, "generation_start": None, "anchor": None}
        state = {**old, **state}
        was, now = (x.get("generations", "none") for x in (state, wanted))
        if was != now:
            raise InputError(
                f"{path}: a run with --generations {was}, resumed with {now}; give the same, or {_anew(path)}"
            )
        self._same("model", state["origin"], path)
        if latest or state["position"]:
            self._same("data", state["origin"], path)
        defaults = {
            option.name: option.default for option in registry.options(self.settings.loss_class).values()
        }
        # A version that did not know an option had what is its default.
        if defaults | state["options"] != wanted["options"]:
            logging.warning(
                f"open_clip_ext: {path} was written with options {state['options']}, "
                f"the run goes on with {wanted['options']}"
            )
        if state["anchor"] is None and self.settings.anchored:
            raise _without_anchors(path)
        self._restored, self.groups = state, state.get("parameters")
        position: Mapping[str, Any] | None = state["position"]
        return position

    def _same(self, what: str, origin: Mapping[str, str], path: str) -> None:
        was, now = origin[what], self.settings.origin[what]
        if was != now:
            raise InputError(f"{path}: a checkpoint of {what} {was}, resumed with {now}; {_anew(path)}")

    @staticmethod
    def wrote(checkpoint: Any) -> bool:
        """Whether this is a checkpoint with our state in it."""
        optimizer = checkpoint.get("optimizer") if isinstance(checkpoint, dict) else None
        return isinstance(optimizer, dict) and STATE_KEY in optimizer

    def build_loss(self, device: torch.device, **distributed: Any) -> nn.Module:
        """The loss module upstream will call, on `device`, watched by `_watch`."""
        self.loss = loss = self.settings.build_loss(**distributed).to(device)
        loss.register_forward_hook(self._watch)
        return loss

    def begin(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        scaled: bool,
        calls_per_step: int,
        batch_size: int = 1,
        itemsize: int = 4,
        empty: Tensor | None = None,
        tokenizer: Any = None,
    ) -> None:
        """Arm the model as upstream wrapped it, build the teacher, and hook into the optimizer.

        Args:
            model: the student, inside DDP and a compiler or not.
            optimizer: upstream's; our state rides in its state dict.
            scaled: whether a GradScaler may skip steps.
            calls_per_step: how often the loss is called for one optimizer step (`--accum-freq`).
            batch_size: images in a call of the model.
            itemsize: bytes of a number of its output.
            empty: token ids `[L]` of an empty text.
            tokenizer: a list of strings to token ids `[N, L]`.
        """
        self.model = unwrap(model)
        if has_bias(self.model) and not getattr(self.loss, "takes_bias", False):
            raise InputError(
                f"this model has a logit bias (SigLIP), and --loss {self.settings.loss} takes none; choose a "
                "CLIP --model, or another --loss"
            )
        # An optimizer that runs no hooks cannot be told from one whose steps a scaler skips.
        self._patience = math.inf if scaled else calls_per_step
        # Before arming, or the copy would carry the arms along.
        self.teacher = self.loss.make_teacher(self.model) if hasattr(self.loss, "make_teacher") else None
        if hasattr(self.loss, "make_anchor"):
            self.anchor = self.loss.make_anchor(self.model, tokenizer)
        if self.settings.generations is not None:
            self.generations = Generations(self.settings.generations, self.model)
        self._trim(empty)
        dense = self._dense(calls_per_step, batch_size, itemsize)
        settings = self.settings
        extend_forward(
            self.model,
            settings.companions,
            self.teacher,
            dense,
            settings.images,
            identified=settings.identified,
            anchor=self.anchor,
        )
        self._load()
        optimizer.register_step_pre_hook(self._stepping)
        optimizer.register_step_post_hook(self._stepped)
        optimizer.register_state_dict_post_hook(self._save)

        line = self.announcement()
        logging.info(line)
        ranks.require_same(line)

    def announcement(self) -> str:
        """The one unmistakable line, the same on every rank."""
        identity = self.settings.identity()
        known = registry.options(self.settings.loss_class)
        told = (
            f"{key}={value}"
            for key, value in identity["options"].items()
            # Every loss has options of anchors, and few runs use them.
            if self.settings.anchored or key not in registry.ANCHOR_OPTIONS or value != known[key].default
        )
        options = " ".join(told) or "defaults"
        counts = " ".join(f"{kind}={count}" for kind, count in identity["companions"].items()) or "none"
        images = "".join(f" {kind}={count}" for kind, count in self.settings.images.items())
        counts += f" images:{images}" if images else ""
        generations = f" generations: {self.settings.generations}" if self.settings.generations else ""
        return (
            f"open_clip_ext {__version__}: loss={identity['loss']} options: {options} "
            f"companions: {counts}{_made_by(identity.get('negatives'))}{generations} steps: {self.steps}"
        )

    def begin_epoch(self) -> None:
        """Forget what a cut-off accumulation group left behind."""
        extension_of(self.model).kept.clear()

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on from there: tensors and plain types.

        Its `position` is that of a checkpoint after an epoch; code that writes one within an epoch sets it.
        """
        return {
            "format": STATE_FORMAT,
            "version": __version__,
            **self.settings.identity(),
            "origin": dict(self.settings.origin),
            "position": None,
            "steps": self.steps,
            "loss_state": self.loss.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.module.state_dict(),
            "anchor": None if self.anchor is None else self.anchor.module.state_dict(),
            "generation_start": None if self.generations is None else self.generations.start,
        }

    def _trim(self, empty: Tensor | None) -> None:
        """Have texts run at their real length where that is exact, and say at which they are run, and why."""
        reason = "--pad-text" if self.settings.pad_text else trim(self.model, empty)
        if reason is None and self.teacher is not None:
            reason = trim(self.teacher.module, empty, evaluation=True)
        if reason is None and self.anchor is not None:
            reason = trim(self.anchor.module, empty, evaluation=True)
        # To a Hugging Face tower, the model's own context length is what it could take.
        tokens = f"{self.model.context_length if empty is None else len(empty)} tokens"
        tower = tower_of(self.model)
        if reason is None and tower is not None:
            logging.info(f"open_clip_ext: texts run at their real length, up to {tokens}: {tower.why}")
        else:
            logging.info(f"open_clip_ext: texts stay at full length, {tokens}: {reason}")

    def _dense(self, calls_per_step: int, batch_size: int, itemsize: int) -> DenseTokens | None:
        """The dense tokens of both towers, where the loss asks for them."""
        if not getattr(self.loss, "wants_dense", bool)():
            return None
        try:
            dense = DenseTokens(self.model, same_width=calls_per_step > 1)
        except InputError as error:
            raise InputError(
                f"--loss {self.settings.loss}: {error}; choose a --model with upstream's own two "
                "transformers, or set the weights of the terms that compare tokens to 0"
            ) from error
        texts = 1 + sum(self.settings.companions.values())
        logging.info(f"open_clip_ext: {dense.memory(batch_size * calls_per_step, texts, itemsize)}")
        return dense

    def _load(self) -> None:
        state = self._restored
        if state is None:
            if self.teacher is not None:
                logging.info("open_clip_ext: no state to resume; the teacher starts from its initial weights")
            return
        self.loss.load_state_dict(state["loss_state"])
        if self.teacher is not None and state["teacher"] is not None:
            self.teacher.module.load_state_dict(state["teacher"])
        if self.anchor is not None and state["anchor"] is not None:
            self.anchor.module.load_state_dict(state["anchor"])
        if self.generations is not None:
            self.generations.start = dict(state["generation_start"])
        self.steps = state["steps"]
        self._restored = None  # a second copy of the teacher's weights
        logging.info(f"open_clip_ext: resumed loss and teacher state at step {self.steps}")

    def _stepping(self, optimizer: Optimizer, *_: Any) -> None:
        """Before each step, and those that a fused optimizer skips by itself."""
        if self.generations is not None:
            self.generations.before_step(self.steps)

    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        """After each real step; a GradScaler that found inf or nan does not call the optimizer."""
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and found_inf.item():
            return  # fused optimizers are called nevertheless, and skip the update themselves
        self.steps += 1
        self._loss_calls = 0
        if self.teacher is not None:
            self.teacher.update(self.model)
        if hasattr(self.loss, "commit"):
            self.loss.commit()
        if self.generations is not None:  # the teacher has seen what the step left
            self.generations.after_step(self.steps, optimizer)

    def _save(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        groups = parameter_names(self.model, optimizer)
        return {**state_dict, STATE_KEY: {**self.state(), "parameters": groups}}

    def _watch(self, loss: nn.Module, inputs: Any, terms: Mapping[str, Tensor]) -> None:
        with exit_on_error():
            if self._loss_calls >= self._patience:
                raise TrainingError(
                    "the optimizer took a step without running its hooks, so the loss and its "
                    "teacher would not follow; choose another --opt (adamw does run them)"
                )
            self._loss_calls += 1
            wrong = [name for name in terms if not name.endswith("_loss")]
            if wrong:
                raise TrainingError(
                    f"--loss {self.settings.loss} returned the term {wrong[0]}: every entry is "
                    "summed into the total, and must have a name that ends in _loss"
                )
            # One transfer for all terms; it waits for the forward pass only.
            finite = torch.stack([term.detach().isfinite().all() for term in terms.values()]).tolist()
            if not all(finite):
                bad = ", ".join(
                    f"{name} is {terms[name].item()}"
                    for name, ok in zip(terms, finite, strict=True)
                    if not ok
                )
                raise TrainingError(
                    f"{bad} at step {self.steps}; the run stops here. Lower --lr, clip with "
                    "--grad-clip-norm, or look at the data of this step"
                )


def parameter_names(model: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    """The names of the parameters in each group of an optimizer; `model` has them, without wrappers."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [
        [names.get(id(parameter), "") for parameter in group["params"]] for group in optimizer.param_groups
    ]


def _anew(path: str) -> str:
    """What to do in place of a resume."""
    return f"a new run needs another --name, and --pretrained {path} to start from its weights"


def _without_anchors(path: str) -> InputError:
    """The error about a checkpoint that lacks what a run with anchors needs."""
    return InputError(
        f"{path}: a checkpoint of a run without anchors, which does not have the model that the run started "
        f"from; {_anew(path)}"
    )


def _same_counts(was: Mapping[str, int], now: Mapping[str, int], path: str) -> str:
    """What to do where a run had other companions: the flags, unless its loss wanted other kinds."""
    if was.keys() != now.keys():
        return _anew(path)
    flags = [kinds.count_flags([kind], count) for kind, count in was.items() if count != now[kind]]
    return f"give the same {' '.join(flags)}"


def _images(counts: Mapping[str, int]) -> dict[str, int]:
    return {image_kind(kind): count for kind, count in counts.items()}


def _made_by(store: Mapping[str, Any] | None) -> str:
    """A store of negatives in the announcement: its size and its generators."""
    if store is None:
        return ""
    makers = ", ".join(f"{name} {version}" for name, version in store["generators"].items())
    return f" negatives: {makers} for {store['captions']} captions"
