"""The launch scripts with stand-ins for SLURM and torchrun: what they start, and when they requeue."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import open_clip
import pytest
from open_clip_train import params

from open_clip_ext import cli, registry
from open_clip_ext.host import flags

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.rglob("*") if path.is_file() and path.suffix != ".toml")
RECIPES = sorted(path.stem for path in LAUNCH.glob("settings/*.sh"))
BASES = sorted(path.stem for path in LAUNCH.glob("bases/*.sh"))
JOBS = ("degla", "ce-clip", "negclip", "loss")  # a job script each; `loss` takes any recipe
SCORED = {"PRETRAINED": "of degla.pt", "DATA": "benchmarks.json", "OUT": "results"}
TABLE = (ROOT / "docs" / "losses.md").read_text().splitlines()
# Each notes its arguments in a file of its name; srun becomes the command of node 0.
STANDINS = {
    "srun": 'while [[ $1 == -* ]]; do shift; done; SLURM_NODEID=0 exec "$@"',
    "torchrun": 'printf "%s\\n" "$@" > torchrun; eval "${STEP:-}"; exit "${STATUS:-0}"',
    "open-clip-ext": 'printf "%s\\n" "$@" > open-clip-ext; echo >> calls; exit "${PREFLIGHT:-0}"',
    "squeue": 'echo "${STATE:-RUNNING}"',
    "scancel": 'echo "$@" >> scancel; touch told',
    "scontrol": """case $1 in
        show) printf 'node%s\\n' $(seq "$SLURM_JOB_NUM_NODES") ;;
        requeue) echo "$@" > requeue; kill -KILL 0 ;;   # as SLURM ends the script
    esac""",
}


class Launched:
    """A script that ran: its exit status, what it printed, and what it called."""

    def __init__(self, folder: Path, status: int, output: str) -> None:
        self.folder, self.status, self.output = folder, status, output

    def called(self, program: str) -> list[str] | None:
        """The arguments of the last call of a stand-in; None if there was none."""
        path = self.folder / program
        return path.read_text().splitlines() if path.exists() else None

    def flag(self, name: str) -> str:
        """The value of a flag that torchrun, or the trainer, got."""
        words = self.called("torchrun")
        return words[words.index(name) + 1]


@pytest.fixture
def launch(tmp_path):
    stands = tmp_path / "bin"
    stands.mkdir()
    for name, body in STANDINS.items():
        (stands / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (stands / name).chmod(0o755)

    def launch(*command, nodes=1, gpus=8, then=None, **settings) -> Launched:
        env = {
            "PATH": f"{stands}:{os.environ['PATH']}", "LAUNCHER": LAUNCH / "train.sh",
            "TRAIN_DATA": "captions.csv", "SLURM_JOB_ID": 30123, "SLURM_JOB_NUM_NODES": nodes,
            "SLURM_JOB_NODELIST": "node[1-2]",
        } | ({"SLURM_GPUS_ON_NODE": gpus} if gpus else {})  # fmt: skip
        command = [str(part) for part in command or ("degla",)]
        if command[0] in (*JOBS, "eval"):
            command[0] = str(LAUNCH / f"{command[0]}.slurm")
        elif command[0] in RECIPES:
            settings = {"RECIPE": command[0]} | settings
            command[0] = str(LAUNCH / "loss.slurm")
        process = subprocess.Popen(
            ["bash", *command],
            cwd=tmp_path,
            env={key: str(value) for key, value in (env | settings).items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            if then:
                then(process)
            output, _ = process.communicate(timeout=60)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Launched(tmp_path, process.returncode, output)

    return launch


# --- the text ---


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_the_script(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_path_of_a_machine_is_in_it(path):
    code = [line for line in path.read_text().splitlines() if not re.match(r"#($|[^!S])", line)]
    assert not re.findall(r"(?<![\w.}])/(?!usr/bin/env|dev/null)\w+/\w+", "\n".join(code))


@pytest.mark.parametrize("recipe", JOBS)
def test_directives(recipe):
    directives = re.findall(r"^#SBATCH (--\S+)$", (LAUNCH / f"{recipe}.slurm").read_text(), re.MULTILINE)
    for wanted in ("--ntasks-per-node=1", "--signal=B:USR1@300", "--requeue", "--open-mode=append"):
        assert wanted in directives
    assert f"--job-name={recipe}" in directives


# --- what is started ---


@pytest.mark.parametrize(
    ("recipe", "lr", "wd", "negatives", "options"),
    [
        ("degla", "1e-6", "0.1", "neg=4", ["distill_weight=0.005"]),
        ("ce-clip", "5e-6", "0.1", "neg=4", ["cmr_weight=0.2", "imc_weight=0.2", "threshold_cap=10"]),
        ("negclip", "1e-6", "0.2", "neg=1", []),
    ],
)
def test_a_recipe_has_the_paper_s_settings(launch, recipe, lr, wd, negatives, options):
    run = launch(recipe, "--wandb-notes", "mine")
    assert run.status == 0, run.output
    words = run.called("torchrun")
    assert [run.flag(name) for name in ("--loss", "--lr", "--wd", "--companions")] == [
        recipe,
        lr,
        wd,
        negatives,
    ]
    assert run.flag("--model") == "ViT-B-32-quickgelu"
    assert [run.flag(name) for name in ("--epochs", "--warmup", "--precision", "--seed")] == [
        "5",
        "50",
        "amp",
        "42",
    ]
    if options:
        at = words.index("--loss-cfg") + 1
        assert words[at : at + len(options)] == options
    assert run.flag("--name") == recipe
    assert "--save-most-recent" in words
    assert run.flag("--resume") == "latest"
    assert words[-2:] == ["--wandb-notes", "mine"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_trainer_takes_the_flags_of_a_recipe(launch, recipe):
    """Each has the name of a loss; its settings have a source, and stand in the table of docs/losses.md."""
    run = launch(recipe, gpus=1, **({"WARMUP": 9} if recipe == "cs-clip" else {}))
    assert run.status == 0, run.output
    words = run.called("torchrun")
    args, settings, _ = flags.parse(
        inspect.unwrap(params.parse_args), words[words.index("open_clip_train.main") + 1 :], {}
    )
    assert (settings.loss, args.name) == (recipe, recipe)
    text = (LAUNCH / "settings" / f"{recipe}.sh").read_text()
    named = re.findall(r"(\w+)=\d", "".join(re.findall(r"COMPANIONS:=([^}]*)", text)))
    assert named == [kind for kind, count in registry.load(recipe).companions.items() if count]
    assert "arXiv" in text
    assert re.search(r"[\w-]+/[\w-]+@[0-9a-f]{7}|README|Omni-NegCLIP", text)
    warmup = "3 epochs" if recipe == "cs-clip" else f"{args.warmup:,}"
    published = f"| {args.batch_size} | {args.lr:g} | {args.wd:g} | {warmup} | {args.epochs} |"
    published = published.replace("e-0", "e-")
    assert any(line.startswith(f"| `{recipe}` {published}") for line in TABLE)


@pytest.mark.parametrize("base", BASES)
def test_a_base_is_a_model_of_upstream_with_the_settings_of_the_table(launch, base):
    """They precede those of the recipe, which keeps its companions and options."""
    run = launch("ce-clip", BASE=base)
    assert run.status == 0, run.output
    words = run.called("torchrun")
    args, settings, _ = flags.parse(
        inspect.unwrap(params.parse_args), words[words.index("open_clip_train.main") + 1 :], {}
    )
    assert (settings.loss, settings.companions, args.name) == ("ce-clip", {"neg": 4}, f"{base}-ce-clip")
    assert settings.options["threshold_cap"] == 10
    tag = open_clip.get_pretrained_cfg(args.model, args.pretrained)
    assert [args.image_mean, args.image_std] == [list(tag["mean"]), list(tag["std"])]
    assert args.image_resize_mode == tag["resize_mode"]
    text = (LAUNCH / "bases" / f"{base}.sh").read_text()
    assert "NOT RUN HERE ON THE REAL WEIGHTS" in text
    assert "arXiv" in text
    batch = 8 * args.batch_size
    published = f"| {batch} | {args.lr:g} | {args.wd:g} | {args.warmup} | {args.epochs} | {args.precision} |"
    published = published.replace("e-0", "e-")
    assert any(
        line.startswith(f"| `{base}` | `{args.model}`, {args.pretrained} {published}") for line in TABLE
    )


def test_the_environment_precedes_a_base(launch):
    run = launch(
        "degla", BASE="siglip2-b16", LR="2e-5", GLOBAL_BATCH=256, MODEL_FLAGS="--siglip", NAME="mine"
    )
    assert [run.flag(name) for name in ("--lr", "--batch-size", "--name")] == ["2e-5", "32", "mine"]
    assert "--siglip" in run.called("torchrun")
    assert "--image-mean" not in run.called("torchrun")


def test_a_base_scales_what_depends_on_the_batch(launch):
    assert launch("degla", BASE="siglip2-b16").flag("--loss-cfg") == f"distill_weight={0.005 * 256 / 768:g}"


def test_an_unknown_base_is_told(launch):
    run = launch("degla", BASE="siglip3")
    assert run.status == 2
    assert "siglip3: no such base in " in run.output
    assert "there are siglip2-b16.sh" in run.output


def test_companions_and_their_columns_can_be_set(launch):
    run = launch("tsvlc", gpus=1, COMPANIONS="neg=2 pos=3", COMPANION_KEYS="neg=hard pos=again")
    words = run.called("torchrun")
    at = words.index("--companions")
    assert words[at : at + 6] == [
        *("--companions", "neg=2", "pos=3", "--companion-keys", "neg=hard", "pos=again"),
    ]


def test_a_loss_without_companions_gets_none(launch):
    words = launch("rank-clip", gpus=1).called("torchrun")
    assert not {"--companions", "--companion-keys", "--loss-cfg", "--pretrained"} & set(words)


def test_a_job_of_any_loss_names_its_recipe(launch):
    run = launch("loss")
    assert run.status == 2
    assert (
        "set RECIPE to the name of a file in launch/settings: ahnpl, anchored, ce-clip, con-clip, "
        in run.output
    )
    run = launch("loss", RECIPE="deglo")
    assert run.status == 2
    assert "deglo: no such recipe in " in run.output
    assert "there are ahnpl, anchored, ce-clip, con-clip, " in run.output


def test_a_warm_up_in_epochs_has_to_be_said(launch):
    run = launch("cs-clip", gpus=1)
    assert run.status == 2
    assert "set WARMUP to the steps of 3 epochs" in run.output


def test_torchrun_starts_the_trainer_on_every_node(launch):
    run = launch(nodes=2, gpus=4)
    words = run.called("torchrun")
    at = words.index("-m")
    assert words[at : at + 3] == ["-m", "--", "open_clip_train.main"]
    assert [run.flag(name) for name in ("--nnodes", "--nproc-per-node", "--max-restarts")] == ["2", "4", "0"]
    assert run.flag("--rdzv-endpoint") == "node1:30123"
    assert run.flag("--rdzv-id") == "30123.0"
    again = launch(nodes=2, gpus=4, SLURM_RESTART_COUNT=2)
    assert again.flag("--rdzv-endpoint") == "node1:30125"
    assert again.flag("--rdzv-id") == "30123.2"


def test_the_negatives_reach_the_run(launch):
    assert launch(NEGATIVES="of coco.store").flag("--negatives") == "of coco.store"
    assert "--negatives" not in launch().called("torchrun")


def test_the_preflight_gets_the_flags_of_the_run(launch):
    run = launch(nodes=2, gpus=4)
    words, flags = run.called("open-clip-ext"), run.called("torchrun")
    assert words[:4] == ["doctor", "--quiet", "--node", "0"]
    assert words[4 : words.index("--")] == ["--nodes", "2", "--processes", "4", "--meet", "node1:30123"]
    assert words[words.index("--") + 1 :] == flags[flags.index("open_clip_train.main") + 1 :]


@pytest.mark.parametrize(
    ("nodes", "gpus", "accum", "batch"), [(1, 8, 1, 32), (2, 4, 1, 32), (1, 1, 4, 64), (4, 8, 1, 8)]
)
def test_the_global_batch_is_held(launch, nodes, gpus, accum, batch):
    assert launch(nodes=nodes, gpus=gpus, ACCUM=accum).flag("--batch-size") == str(batch)


def test_a_batch_that_cannot_be_split_stops(launch):
    run = launch(nodes=3, gpus=8)
    assert run.status == 2
    assert (
        "a global batch of 256 cannot be split over 3 x 8 GPUs and ACCUM=1; change one of them" in run.output
    )
    assert run.called("open-clip-ext") is None


def test_the_distillation_of_another_batch_is_scaled(launch):
    assert launch(GLOBAL_BATCH=1024).flag("--loss-cfg") == "distill_weight=0.00125"


def test_no_gpu_stops(launch):
    run = launch(gpus=0)
    assert run.status == 2
    assert "no GPU was allocated; ask SLURM for some, as with --gpus-per-node" in run.output


def test_another_trainer_can_be_started(launch):
    run = launch(TRAINER="-m -- open_clip_ext")
    assert "--no-start-up" in run.called("open-clip-ext")
    words = run.called("torchrun")
    assert words[words.index("-m") : words.index("-m") + 3] == ["-m", "--", "open_clip_ext"]


def test_no_secret_is_printed(launch):
    assert "abracadabra" not in launch(WANDB_API_KEY="abracadabra", STATUS=1, STATE="COMPLETING").output


# --- how it ends ---


def test_a_failed_step_is_requeued(launch, tmp_path):
    (tmp_path / "logs" / "degla").mkdir(parents=True)
    (tmp_path / "logs" / "degla" / "stopped").write_text("of the run before\n")
    run = launch(STATUS=7)
    assert run.called("requeue") == ["requeue 30123"]
    assert "requeue: the step ended with status 7" in run.output


REFUSE = 'mkdir -p logs; echo "captions.csv has no column title" > "$OPEN_CLIP_EXT_REFUSED"'


def test_a_wrong_input_is_not_requeued(launch):
    run = launch(STEP=REFUSE, STATUS=1)
    assert (run.status, run.called("requeue")) == (2, None)
    assert "no restart, the same input would fail again: captions.csv has no column title" in run.output


def test_a_run_that_upstream_ended_before_training_is_not_done(launch):
    """Over some flags upstream prints a message and ends with status 0."""
    assert launch(STEP=REFUSE, STATUS=0).status == 2
    assert launch(LAUNCH / "local.sh", "degla", GPUS=2, STEP=REFUSE, STATUS=0).status == 2


@pytest.mark.parametrize("status", [2, 127])
def test_a_call_that_torchrun_does_not_take_is_not_tried_again(launch, status):
    sentence = (
        f"no restart, torchrun cannot be started like this (status {status}, TRAINER=nowhere.py); see above"
    )
    run = launch(STATUS=status, TRAINER="nowhere.py")
    assert (run.status, run.called("requeue")) == (2, None)
    assert sentence in run.output
    run = launch(LAUNCH / "local.sh", "degla", GPUS=2, STATUS=status, TRAINER="nowhere.py")
    assert run.status == 2
    assert sentence in run.output


def test_an_earlier_refusal_does_not_keep_a_failed_step_down(launch, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "degla.refused").write_text("of the run before\n")
    assert launch(STATUS=7).called("requeue") == ["requeue 30123"]


def test_the_status_is_passed_through_when_restarts_are_used_up(launch):
    run = launch(STATUS=7, MAX_RESTARTS=2, SLURM_RESTART_COUNT=2)
    assert (run.status, run.called("requeue")) == (7, None)
    assert "no requeue after 2 restarts: the step ended with status 7" in run.output


def test_slurm_s_own_restarts_count_too(launch):
    run = launch(MAX_RESTARTS=2, SLURM_RESTART_COUNT=3)
    assert run.status == 2
    assert run.called("torchrun") is None


def test_a_cancelled_job_is_not_requeued(launch):
    run = launch(STATUS=7, STATE="COMPLETING")
    assert (run.status, run.called("requeue")) == (7, None)


def test_a_failed_preflight_ends_the_job(launch):
    run = launch(PREFLIGHT=1)
    assert run.status == 2
    assert run.called("torchrun") is None
    assert run.called("requeue") is None


def warn(process):
    """The signal before the time limit, once the step runs."""
    folder = Path(os.readlink(f"/proc/{process.pid}/cwd"))
    while not (folder / "torchrun").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGUSR1)


SAVE = (
    "until [[ -f told ]]; do sleep .1; done; mkdir -p logs/degla; echo SIGUSR1 step 12 > logs/degla/stopped"
)


def test_near_the_time_limit_the_ranks_save_and_the_job_is_requeued(launch):
    run = launch(then=warn, STEP=SAVE, STATUS=1)
    assert run.called("scancel")[0] == "--signal=USR1 30123"
    assert run.called("requeue") == ["requeue 30123"]
    assert "requeue: saved and stopped on SIGUSR1 step 12" in run.output


def test_a_run_that_finishes_after_the_signal_is_done(launch):
    run = launch(then=warn, STEP="until [[ -f told ]]; do sleep .1; done")
    assert (run.status, run.called("requeue")) == (0, None)


def test_a_run_that_does_not_save_in_time_is_requeued_all_the_same(launch):
    run = launch(then=warn, STEP="sleep 30", GRACE=1)
    assert "requeue: nothing saved within 1 s" in run.output


def test_ranks_ignore_a_signal_that_comes_before_they_listen(launch):
    run = launch(STEP="kill -USR1 $$; echo still here")
    assert run.status == 0
    assert "still here" in run.output


# --- without SLURM ---


def test_local_trains_the_same_without_slurm(launch):
    there = launch("degla", gpus=2).called("torchrun")
    run = launch(LAUNCH / "local.sh", "degla", GPUS=2)
    words = run.called("torchrun")
    assert "--standalone" in words
    assert words[words.index("-m") :] == there[there.index("-m") :]
    assert run.called("open-clip-ext")[0] == "doctor"


def test_local_starts_a_failed_run_again_and_passes_its_status_through(launch):
    run = launch(LAUNCH / "local.sh", "degla", GPUS=2, MAX_RESTARTS=2, STATUS=7)
    assert run.status == 7
    assert run.output.count("the step ended with status 7") == 2


def test_local_does_not_start_again_what_was_told_to_stop(launch):
    stop = "mkdir -p logs/degla; touch logs/degla/stopped"
    run = launch(LAUNCH / "local.sh", "degla", GPUS=2, STEP=stop, STATUS=1)
    assert run.status == 1
    assert "restart" not in run.output


def test_local_does_not_try_a_wrong_input_again(launch):
    run = launch(LAUNCH / "local.sh", "degla", GPUS=2, STEP=REFUSE, STATUS=1)
    assert run.status == 2
    assert run.output.endswith(
        ": no restart, the same input would fail again: captions.csv has no column title\n"
    )


def test_local_with_a_failed_preflight_starts_nothing(launch):
    run = launch(LAUNCH / "local.sh", "degla", GPUS=2, PREFLIGHT=1)
    assert run.status == 2
    assert run.called("torchrun") is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_local_that_is_interrupted_starts_nothing_again(launch, number):
    def interrupt(process):
        folder = Path(os.readlink(f"/proc/{process.pid}/cwd"))
        while not (folder / "started").exists():
            assert process.poll() is None
        os.killpg(process.pid, number)

    step = f"trap 'exit 1' {number.name}; touch started; while :; do sleep .1; done"
    run = launch(LAUNCH / "local.sh", "degla", GPUS=2, STEP=step, then=interrupt)
    assert run.status == 1
    assert "restart" not in run.output


def test_local_without_a_gpu_stops(launch):
    run = launch(LAUNCH / "local.sh", "degla", GPUS=0)
    assert run.status == 2
    assert "no GPU was allocated; set GPUS to the number of processes to start all the same" in run.output


def test_local_names_the_recipes(launch):
    run = launch(LAUNCH / "local.sh", "deglo")
    assert run.status == 2
    assert "deglo: no such recipe" in run.output
    run = launch(LAUNCH / "local.sh")
    assert run.status == 2
    assert "set RECIPE" in run.output


# --- evaluation ---


def test_every_task_gets_the_call_of_the_evaluation(launch):
    run = launch("eval", "--allow-missing", **SCORED)
    assert run.status == 0, run.output
    words = ["eval", "run", "--pretrained", "of degla.pt", "--data", "benchmarks.json", "--out", "results"]
    assert run.called("open-clip-ext") == [*words, "--allow-missing"]
    run = launch("eval", MODEL="ViT-B-32", CACHE="of all", **SCORED)
    words[2:2] = ["--model", "ViT-B-32"]
    assert run.called("open-clip-ext") == [*words, "--cache", "of all"]


@pytest.mark.parametrize("name", SCORED)
def test_an_evaluation_says_what_is_not_set(launch, name):
    run = launch("eval", **{key: value for key, value in SCORED.items() if key != name})
    assert run.status == 1
    assert f"{name}: set {name} to a " in run.output
    assert run.called("open-clip-ext") is None


@pytest.mark.parametrize(("status", "calls"), [(0, 1), (1, 3), (137, 3), (2, 1), (127, 1)])
def test_an_evaluation_is_tried_again_unless_its_input_is_wrong(launch, status, calls):
    run = launch("eval", PREFLIGHT=status, **SCORED)
    assert run.status == status
    assert len(run.called("calls")) == calls
    assert run.output.count("a task ended with status") == calls - 1


def test_the_flags_of_an_evaluation_are_those_of_the_command(launch):
    words = launch("eval", "--batch-size", "9", MODEL="ViT-B-32", CACHE="c", **SCORED).called("open-clip-ext")
    args = cli.parser().parse_args(words)
    assert (args.pretrained, args.model, args.cache, args.batch_size) == ("of degla.pt", "ViT-B-32", "c", 9)
