"""``--pretrained``: a new model that begins with the parameters of another one, of either task."""

from vtlm_fairseq.compatibility import check_model
from vtlm_fairseq.errors import exit_on_error
from vtlm_fairseq.models.description import Description, Relation
from vtlm_fairseq.models.transfer import PretrainedEncoder


class WarmStart:
    """Mixin in front of :class:`CaptionsTask`."""

    _pretrained: PretrainedEncoder | None = None

    def build_model(self, cfg, from_checkpoint=False):
        """Build a model; for training with ``--pretrained``, fill it and print the transfer report.

        The pre-trained file is not opened when a checkpoint is loaded or a run is resumed.
        """
        self._pretrained = None
        with exit_on_error():
            if not from_checkpoint:
                check_model(self, cfg)
            if not from_checkpoint and cfg.pretrained and not self.restored_checkpoint():
                self._pretrained = PretrainedEncoder.load(cfg.pretrained)
                self._pretrained.check_dictionary(self.source_dictionary)
                if not cfg.fresh_regions:
                    self.doubts.norms.precede(self._pretrained.task_state)
            model = super().build_model(cfg, from_checkpoint)
            if self._pretrained is not None:
                crossing = str(getattr(cfg, "init_cross_attention", "self-attention"))
                self._pretrained.fill(model, cfg, init_cross_attention=crossing).log()
        self._pretrained = None
        return model

    def begins_with(self) -> tuple[Relation, Description] | None:
        """The checkpoint to go on from, else the pre-trained one."""
        source = super().begins_with()
        return (Relation.PRETRAINED, self._pretrained.description) if source is None and self._pretrained else source
