"""`reloc search`: settings of a method that do well on mapping views which are held back."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.table import Table

from reloc import methods, steps
from reloc.commands.command import Answer, Command, CommonArguments
from reloc.commands.options import (
    Load,
    LoadOptions,
    Machine,
    MachineOptions,
    scene_words,
    start_run,
)
from reloc.commands.search_space import (
    DEFAULT_SPACE,
    Choice,
    parse_space,
    setting_words,
    with_values,
)
from reloc.contract import Run
from reloc.evaluation.errors import position_error, rotation_error_deg
from reloc.input_error import DivergedError, InputError
from reloc.progress import Progress
from reloc.scenes.scene import Scene

_SHOWN = 10
# What a declined view costs: as far as the scene is wide, and half a turn.
_DECLINED = 1 + torch.pi
# Between the seeds of calls that go on with a study; and how many there are.
_SEEDS_APART, _SEEDS = 1_000_003, 2**32


@dataclass(frozen=True)
class SearchArguments(CommonArguments):
    """Search for settings with Optuna, on mapping views that are held back in turn.

    The mapping views are cut into blocks of neighbours; every so many blocks are a fold, asked of a
    map of the others. The queries of the scene are never looked at. A trial's figure is the median
    of position error over extent plus rotation error in radians, averaged over the folds. The study
    is kept in a file (SQLite): the same command goes on, until there are --trials.
    """

    method: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="METHOD[:PRESET]")]
    """A row of `reloc methods`; settings that are not searched are the preset's."""
    scene: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCENE")]
    """Folder of a scene."""
    out: Annotated[Path, tyro.conf.arg(metavar="STUDY")]
    """File of the study; one that is there is gone on with."""
    space: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SETTING...")] = DEFAULT_SPACE
    """What is searched: name=low:high, name=low:high:log or name=a|b|c; loss.beta for the beta of
    the loss. By default, those of the learning rate, the dropout and the width that there are."""
    trials: int = 20
    """In all, those of earlier calls included."""
    sampler: Literal["random", "tpe"] = "tpe"
    """Random, or tree-structured Parzen estimators."""
    prune: bool = True
    """Give up a trial that is worse after a fold than most were."""
    folds: int = 3
    """Maps of a trial, each asked of another part of the mapping views."""
    block: int = 20
    """Neighbouring views that are held back together."""
    machine: Machine = field(default_factory=MachineOptions)
    load: Load = field(default_factory=LoadOptions)


def _run(arguments: SearchArguments, progress: Progress) -> Answer:
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise InputError('reloc search needs Optuna: pip install "reloc[search]"') from error
    for name in ("trials", "folds", "block"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name} {getattr(arguments, name)}: give 1 or more")
    if arguments.folds < 2:
        raise InputError("--folds 1 would leave no view to map: give 2 or more")
    run = start_run(arguments.machine, progress)
    _, config = methods.get_config(arguments.method)
    defaults = arguments.space is DEFAULT_SPACE or arguments.space == DEFAULT_SPACE
    space = parse_space(arguments.space, config, skip_unknown=defaults)
    folds = folds_of(
        steps.load_scene(arguments.scene, arguments.load), arguments.folds, arguments.block
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner() if arguments.prune else optuna.pruners.NopPruner()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    place = scene_words(arguments.scene.resolve(), arguments.load)
    try:
        study = optuna.create_study(
            study_name=f"{arguments.method} on {place}",
            storage=f"sqlite:///{arguments.out.resolve()}",
            pruner=pruner,
            load_if_exists=True,
        )
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--out {arguments.out} cannot be used as a study: {reason}; name another file"
        ) from error
    _keep_asking_the_same(study, arguments)
    # With the same seed as before, a search that goes on would draw what it has tried.
    before = len(study.get_trials(deepcopy=False))
    seed = arguments.machine.seed + _SEEDS_APART * before
    study.sampler = (
        optuna.samplers.TPESampler(seed=seed % _SEEDS)
        if arguments.sampler == "tpe"
        else optuna.samplers.RandomSampler(seed=seed % _SEEDS)
    )

    def objective(trial: Any) -> float:
        values = {choice.name: choice.suggest(trial) for choice in space}
        try:
            tried = with_values(config, values)
        except InputError as error:
            run.log.warning("trial %d is given up: %s", trial.number, error)
            raise optuna.TrialPruned from None
        figures: list[float] = []
        for number, fold in enumerate(folds):
            try:
                figures.append(figure_of(arguments.method, tried, fold, run))
            except DivergedError as error:
                run.log.warning("trial %d is given up: %s", trial.number, error)
                raise optuna.TrialPruned from None
            mean = sum(figures) / len(figures)
            trial.report(mean, number)
            if number + 1 < len(folds) and trial.should_prune():
                raise optuna.TrialPruned
        return sum(figures) / len(figures)

    # Trials that were interrupted are not counted: they are made anew.
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    done = len(study.get_trials(deepcopy=False, states=ended))
    for _ in progress.track(range(done, arguments.trials), "trials"):
        study.optimize(objective, n_trials=1)
    return _answer(study.get_trials(deepcopy=False, states=ended), space, arguments)


def _keep_asking_the_same(study: Any, arguments: SearchArguments) -> None:
    """Note in a new study what its figures hang on; trials that differ in it do not compare.

    Raises:
        InputError: the study was begun with something else.
    """
    asked = {
        "space": shlex.join(sorted(arguments.space)),
        "folds": str(arguments.folds),
        "block": str(arguments.block),
    }
    begun = bool(study.get_trials(deepcopy=False))
    for option, now in asked.items():
        before = study.user_attrs.get(option)
        if before is None and not begun:
            study.set_user_attr(option, now)
        elif before != now:
            raise InputError(
                f"{arguments.out} was begun with --{option} {before or '(not noted)'}, not {now}: "
                "say the same, or choose another --out"
            )


def folds_of(scene: Scene, num_folds: int, block: int) -> list[Scene]:
    """The scene, each time with other mapping views as its queries.

    Raises:
        InputError: there are too few views.
    """
    views = scene.mapping
    # Blocks so short that each fold has one.
    block = max(1, min(block, len(views) // (2 * num_folds)))
    if len(views) < 2 * num_folds:
        raise InputError(
            f"{len(views)} mapping views cannot be held back in {num_folds} folds: lower --folds"
        )
    folds = []
    for fold in range(num_folds):
        held = [(index // block) % num_folds == fold for index in range(len(views))]
        folds.append(
            replace(
                scene,
                mapping=[view for view, out in zip(views, held, strict=True) if not out],
                queries=[view for view, out in zip(views, held, strict=True) if out],
                render=None,
            )
        )
    return folds


def figure_of(method: str, config: Any, fold: Scene, run: Run) -> float:
    """The median over the held views of position error / extent + rotation error in rad."""
    map_ = steps.build_map(method, fold, config, run)
    estimates = steps.localize(map_, fold.queries, run)
    figures = []
    for view in fold.queries:
        pose = estimates.by_name[view.name].cam_from_world
        if pose is None:
            figures.append(_DECLINED)
            continue
        off = float(position_error(pose, view.cam_from_world)) / (fold.extent or 1.0)
        turned_rad = float(rotation_error_deg(pose, view.cam_from_world)) * torch.pi / 180
        figures.append(off + turned_rad)
    return float(torch.tensor(figures).median())


def _answer(trials: Sequence[Any], space: Sequence[Choice], arguments: SearchArguments) -> Answer:
    """The best trials, and the command for the best one."""
    whole = sorted(
        (trial for trial in trials if trial.state.name == "COMPLETE"), key=lambda t: t.value
    )
    table = Table("trial", "figure", *[choice.name for choice in space])
    for trial in whole[:_SHOWN]:
        values = [str(trial.params[choice.name]) for choice in space]
        table.add_row(str(trial.number), f"{trial.value:.4f}", *values)
    _, config = methods.get_config(arguments.method)
    options = setting_words(config, whole[0].params) if whole else []
    again = scene_words(arguments.scene, arguments.load)
    best = f"reloc map {arguments.method} {again} --out MAP {shlex.join(options)}"
    values = {
        "study": str(arguments.out),
        "trials": len(trials),
        "pruned": len(trials) - len(whole),
        "best": None if not whole else {"figure": whole[0].value, "settings": whole[0].params},
        "command": best if whole else None,
    }
    lines: list[Any] = [table, f"{len(trials)} trials, {len(trials) - len(whole)} given up early"]
    return Answer(values, [*lines, f"the best: {best}"] if whole else lines)


COMMAND = Command(
    SearchArguments,
    _run,
    [
        "reloc search posenet-learned data/kitchen --out kitchen.study --trials 30",
        "reloc search mapnet data/kitchen --out m.study --space dropout=0:0.7 loss.beta=1:500:log",
        "reloc search sift data/kitchen --out s.study --space max_keypoints=1000|2000|4000",
    ],
    interrupted="the trials that were done are kept: the same command goes on from there",
)
