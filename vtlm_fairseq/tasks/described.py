"""Models that describe themselves: what a task fills in, keeps in a checkpoint, adopts from one and compares."""

import os
from collections.abc import Sequence
from typing import Any

from fairseq import utils

from vtlm_fairseq.checkpoint_guard import check_parts
from vtlm_fairseq.checkpoints import advise_latest, load_checkpoint
from vtlm_fairseq.compatibility import check_kind
from vtlm_fairseq.data.dictionary import check_symbols
from vtlm_fairseq.data.masking import MASKS_VERSION, VALIDATION_SEED
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.names import check_languages
from vtlm_fairseq.models import description
from vtlm_fairseq.models.description import Description, Relation
from vtlm_fairseq.models.embeddings import IMAGE
from vtlm_fairseq.ranges import DATASET, check_ranges
from vtlm_fairseq.regions.detector import Detector, check_detector
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.tasks.runs import whole_config
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)


class DescribedTask:
    """Mixin of :class:`CaptionsTask`.

    ``langs``, ``has_regions``, ``region_dim``, ``region_classes`` and ``detector`` are the model's, known once it is
    built. Options that are not given are filled in by then.
    """

    langs: str | None = None
    has_regions: bool = False
    region_dim: int | None = None
    region_classes: int | None = None
    detector: Detector | None = None
    source: Description | None = None
    """What the checkpoint says that is loaded, or that a training begins with."""
    relation: Relation | None = None
    rebuilt: bool = False
    """Whether the task's options come from a checkpoint (validate, translate, probes), not from a command line."""
    told: bool = False
    models_loaded: int = 0
    regions_adopted: bool = False
    """Whether ``--max-regions`` is the first checkpoint's, not this command's."""

    def option(self, name: str) -> Any:
        """Value of a task option: the given one, the checkpoint's, else its default."""
        return description.effective(self.cfg, name)

    def validation_seed(self) -> int:
        """Seed of the masks and shuffles of validation: the same in all runs, unless ``--fixed-validation-seed``."""
        seed = description.given(self.cfg, "fixed_validation_seed")
        check_ranges({"fixed_validation_seed": seed}, DATASET)  # of fairseq-validate, too
        if seed is None and self.source is not None and self.source.whole:
            seed = self.source.validation_seed
        return VALIDATION_SEED if seed is None else int(seed)

    def shuffle_seed(self, split: str) -> int:
        """Seed of ``--region-order shuffle`` for a split: ``--seed`` where it trains, and in fairseq-generate."""
        decodes = self.relation is Relation.LOAD and not self.rebuilt
        return self.cfg.seed if decodes or split == self.cfg.train_subset else self.validation_seed()

    def describe(self) -> dict[str, Any]:
        """What is kept in a checkpoint."""
        return description.to_save(
            self.cfg, has_regions=self.has_regions, detector=self.detector, validation_seed=self.validation_seed()
        )

    def begins_with(self) -> tuple[Relation, Description] | None:
        """The checkpoint that a training begins with, None for a fresh start.

        Raises:
            VTLMError: it cannot be read, holds another kind of model, or has another dictionary.
        """
        path, relation = self.restored_checkpoint(), Relation.RESUME
        if not path:
            path, relation = self.cfg.finetune_from_model, Relation.FINETUNE
        if not path or not os.path.isfile(path):
            return None
        with advise_latest(path):
            state = load_checkpoint(path, mmap=True)
        check_parts(state, path)
        found = Description.of_checkpoint(state, path)
        check_kind(self, found.model, path)
        # fairseq's trainer does not call load_state_dict of the task, so the dictionary is compared here too
        task_state = state.get("task_state") or {}
        check_symbols(task_state.get("symbols"), self.source_dictionary, path)
        (self.doubts.norms.adopt if relation is Relation.RESUME else self.doubts.norms.precede)(task_state)
        return relation, found

    def checkpoint_suffix(self) -> str:
        """``--checkpoint-suffix``, which fairseq puts before ``.pt``; empty where a task was made by itself."""
        whole = whole_config(self.cfg)
        return "" if whole is None else whole.checkpoint.checkpoint_suffix or ""

    def restored_checkpoint(self) -> str | None:
        """Path of the checkpoint that the trainer is about to restore; None for a fresh start."""
        path, whole, suffix = self.cfg.restore_file, whole_config(self.cfg), self.checkpoint_suffix()
        if path == "checkpoint_last.pt":
            path = os.path.join(self.cfg.save_dir, f"checkpoint_last{suffix}.pt")
            if whole is not None and not os.path.isfile(path):
                path = whole.checkpoint.get("continue_once") or path
        else:
            path = path.replace(".pt", f"{suffix}.pt")  # as fairseq does
        return path if os.path.isfile(path) else None

    def default_langs(self) -> str:
        """Languages where ``--langs`` is not given: of the model to begin with, else source and target, sorted."""
        theirs = None if self.source is None else self.source.model.get("langs")
        if isinstance(theirs, str):
            check_languages(theirs.split(","), self.source.owner)
            return theirs
        return ",".join(sorted(set(self.languages())))

    def languages(self) -> tuple[str, ...]:
        """Of the data."""
        return self.cfg.source_lang, self.cfg.target_lang

    def pair_hint(self) -> str:
        """Which options say the languages."""
        return "see -s and -t"

    def _describe(self, cfg) -> None:
        """A model to be trained: what it has to know, from options, the model to begin with, and the store.

        Raises:
            VTLMError: these contradict each other.
        """
        self.relation, self.source = self.begins_with() or (None, None)
        if self.relation is Relation.PRETRAINED and cfg.fresh_regions:
            self.source = self.source.without_regions()
        self.has_regions = self.cfg.regions != "none"
        if self.source is not None:
            description.adopt_options(self.cfg, self.source, self.relation, has_regions=self.has_regions)
        if "region_objectives" in cfg:
            if not self.has_regions and description.given(self.cfg, "region_objectives") is not None:
                raise VTLMError("--region-objectives without --regions: there is nothing to learn; leave it out")
            cfg.region_objectives = self.option("region_objectives")
        data = self.languages()
        cfg.source_lang, cfg.target_lang = self.cfg.source_lang, self.cfg.target_lang
        cfg.langs = self.cfg.langs or self.default_langs()
        languages = cfg.langs.split(",")
        if IMAGE in languages or len(set(languages)) != len(languages):
            raise VTLMError(f"--langs {cfg.langs}: names must be distinct, and {IMAGE!r} is the name of the image row")
        for lang in data:
            if lang not in languages:
                if self.cfg.langs is None and self.source is not None:
                    grown = f"give --langs {cfg.langs},{lang}"
                    raise VTLMError(
                        f"{self.source.owner} has the languages {cfg.langs}, the data is {'-'.join(data)}; "
                        f"{grown if self.relation is Relation.PRETRAINED else self.pair_hint()}"
                    )
                raise VTLMError(f"--langs {cfg.langs} lacks {lang!r}, a language of the data; add it")
        self.langs = cfg.langs
        if self.has_regions:
            store = self.open_store(self.cfg.train_subset)
            for name, found in (("region_dim", store.feature_dim), ("region_classes", store.num_classes)):
                if cfg[name] not in (0, found):
                    raise VTLMError(f"--{name.replace('_', '-')} is {cfg[name]}, but {self.cfg.regions} has {found}")
                cfg[name] = found
            self.region_dim, self.region_classes, self.detector = store.feature_dim, store.num_classes, store.identity
        elif cfg.region_dim or cfg.region_classes:
            raise VTLMError("--region-dim and --region-classes describe a region store; name it with --regions")
        if self.source is not None:
            description.adopt_model_options(cfg, self.source, self.relation)
        description.fill_defaults(cfg)
        if self.source is not None:
            if self.relation is not Relation.PRETRAINED:  # that one is compared where it is copied
                description.check_same_model(self.source, cfg, self.relation)
            resized = self.relation is Relation.PRETRAINED and self.source.model.get("region_dim") != self.region_dim
            if self.has_regions and not resized:  # the transfer says which option takes another size
                self.check_detector(
                    self.source.detector, self.detector, where=self.cfg.regions, owner=self.source.owner
                )
            self._tell_unsaid(self.source)

    def _adopt(self, cfg) -> None:
        """A model from a checkpoint: check the options of this command against it.

        Raises:
            VTLMError: they contradict it, or the checkpoints of an ensemble each other.
        """
        if self.cfg.langs not in (None, cfg.langs):
            raise VTLMError(f"--langs {self.cfg.langs} contradicts the checkpoint, which has {cfg.langs}; omit it")
        source = self.source or Description("the checkpoint")
        source.model = cfg
        self.relation = Relation.LOAD
        if cfg.region_dim:
            self._check_ensemble(source)
        description.adopt_options(self.cfg, source, Relation.LOAD, has_regions=cfg.region_dim > 0)
        description.fill_defaults(cfg)
        self.langs = cfg.langs
        self.models_loaded += 1
        if cfg.region_dim:
            if self.has_regions and (self.region_dim, self.region_classes) != (cfg.region_dim, cfg.region_classes):
                raise VTLMError("the models of the ensemble were made for different regions; decode each alone")
            self.has_regions = True
            self.region_dim, self.region_classes = cfg.region_dim, cfg.region_classes
            if source.detector is not None:
                owner = "the other models of the ensemble"
                self.check_detector(self.detector, source.detector, where="the checkpoint", owner=owner)
        self.detector = source.detector or self.detector
        order = self.option("region_order")
        if self.has_regions and self.cfg.regions == "none" and order != "none":
            raise VTLMError(
                "the checkpoint has regions, --regions is none: name a region store, or hide the regions on purpose "
                "with --region-order none"
            )
        last = self.models_loaded >= len(utils.split_paths(self.cfg.path or ""))  # of an ensemble
        if not self.has_regions and self.cfg.regions != "none" and last:
            raise VTLMError("the checkpoint is a text-only model (no region parameters); use --regions none")
        self._tell_unsaid(source)

    def _check_ensemble(self, source: Description) -> None:
        """Refuse models of an ensemble that saw different numbers of regions, unless all can see the given one.

        Raises:
            VTLMError: names the least number.
        """
        theirs, ours = source.options.get("max_regions"), description.given(self.cfg, "max_regions")
        if not self.has_regions:  # the first with regions; a rebuilt task has the options of the first checkpoint
            self.regions_adopted = ours is None and theirs is not None
        elif None not in (theirs, ours) and (theirs < ours or (self.regions_adopted and theirs > ours)):
            raise VTLMError(
                f"the models of the ensemble differ: --max-regions {ours} and {theirs}; give --max-regions "
                f"{min(ours, theirs)}, or decode each alone"
            )

    def complete(self, task_cfg) -> None:
        """Take ``max_regions`` of an older checkpoint from its task's options, which fairseq-generate hands on."""
        if self.relation is not Relation.LOAD or self.rebuilt or task_cfg is None or not self.has_regions:
            return
        if self.source is None or not self.source.whole:
            older = Description("the checkpoint", model={"region_dim": self.region_dim})
            older.add_options({"max_regions": description.given(task_cfg, "max_regions")})
            description.adopt_options(self.cfg, older, Relation.LOAD, has_regions=True)

    def check_detector(self, expected: Detector | None, found: Detector, *, where: str, owner: str) -> None:
        """Refuse regions of another detector, unless ``--any-detector``."""
        check_detector(expected, found, where=where, owner=owner, any_detector=self.cfg.any_detector)

    def open_store(self, split: str | None, parts: Sequence[str] = ()) -> RegionStore:
        """The region store of a split (None: of all in a folder) and of parts that have their own.

        Raises:
            VTLMError: there is none, or its sizes and its detector are not the model's.
        """
        store = RegionStore.open(
            self.cfg.regions, split, self.option("max_regions"), parts=parts, any_detector=self.cfg.any_detector
        )
        where = f"--regions {self.cfg.regions}" + (f" ({split})" if split else "")
        for what, expected, found in (
            ("features are {} wide", self.region_dim, store.feature_dim),
            ("it has {} classes", self.region_classes, store.num_classes),
        ):
            if expected not in (None, found):
                raise VTLMError(
                    f"{where}: {what.format(found)}, the model was built for {expected}; use regions made by the same "
                    "detector"
                )
        self.check_detector(self.detector, store.identity, where=where, owner="the model")
        return store

    def warn_of_order(self) -> None:
        """Warn of an order of regions that the model was not trained with."""
        theirs = None if self.source is None else self.source.options.get("region_order")
        ours = self.option("region_order")
        if self.has_regions and theirs not in (None, ours):
            logger.warning("the model was trained with --region-order %s, this command has %s", theirs, ours)

    def warn_of_figures(self) -> None:
        """Warn, once, where figures of validation cannot be compared with those of the checkpoint's training."""
        if self.told or self.source is None or self.relation not in (Relation.RESUME, Relation.LOAD):
            return
        theirs = self.source.validation_seed
        if not self.source.whole and theirs is None and self.rebuilt:
            theirs = self.cfg.seed  # of the training
        if theirs is None and not self.source.whole:
            return
        self.told = True
        if self.source.masks not in (None, MASKS_VERSION):
            logger.warning(
                "%s was trained with version %s of the masks, this is %s: figures of validation are not comparable",
                self.source.owner, self.source.masks, MASKS_VERSION,
            )  # fmt: skip
        elif theirs != self.validation_seed():
            logger.warning(
                "%s was validated with masks of seed %s, this command has %s: figures of validation are not comparable "
                "(--fixed-validation-seed %s gives the former masks)",
                self.source.owner, theirs, self.validation_seed(), theirs,
            )  # fmt: skip

    def _tell_unsaid(self, source: Description) -> None:
        """Say, once, what an older checkpoint does not hold."""
        if source.whole or not (source.model and source.model.get("region_dim")):
            return
        names = [] if self.rebuilt else ["max_regions"]
        lacking = source.unsaid(names)
        if lacking:
            logger.warning(
                "%s is of an older version and does not say: %s; this command's are taken as they are",
                source.owner, ", ".join(lacking),
            )  # fmt: skip
