"""Swap what should not matter, estimate, decide: does a class lean on its background, and how sure is that.

The files in the order of a round: `asking`, `pool` and `guess` (which images), `design` (who meets whose background),
`intervene` and `stickers` (what the network says then), `estimate`, `decide`, `examine` (the round as a whole),
`instances`, `locate`, `places` and `pictures` (what convinces a person), `history` (the rounds of a run), and what to
do about it: `remedies` and `retrain`.
"""

from camtrain.reliance.asking import Asking
from camtrain.reliance.decide import decide, decide_guessed, in_spreads, of_label, rejected, share_of_round, unmeasured
from camtrain.reliance.estimate import (
    Contrast,
    adjust_families,
    bootstrap,
    estimate,
    holm,
    necessity,
    screen,
    sufficiency,
)
from camtrain.reliance.examine import ExaminationPlan, Findings, Shown, examine, guess_margins, margins
from camtrain.reliance.guess import Guesser
from camtrain.reliance.history import Album, VerdictHistory
from camtrain.reliance.instances import (
    Instance,
    Transplant,
    flipped,
    illustrate,
    sentence,
    transplant,
    transplanted,
    with_transplants,
)
from camtrain.reliance.intervene import (
    FRAME,
    NEAR_OBJECT,
    bordered,
    choose_donors,
    intervene,
    intervened,
    predict_before,
    probabilities,
    restrict,
)
from camtrain.reliance.locate import Evidence, gather_evidence, join_evidence
from camtrain.reliance.places import CueRegion, Exemplars, exemplars, locate, region_of, with_regions
from camtrain.reliance.pool import Collecting, Collector, Count, PoolCensus, Pools, Samples, usable
from camtrain.reliance.records import (
    STICKER,
    Criteria,
    Design,
    Effects,
    Estimate,
    Pool,
    Progress,
    Verdict,
    check_least,
    concatenate,
)
from camtrain.reliance.remedies import Advice, Remedy, advice_for, remedies_of
from camtrain.reliance.retrain import Retrained, find_head, retrain_last_layer
from camtrain.reliance.stickers import Placement, Stickers, find_stickers, placement

__all__ = [
    "FRAME",
    "NEAR_OBJECT",
    "STICKER",
    "Advice",
    "Album",
    "Asking",
    "Collecting",
    "Collector",
    "Contrast",
    "Count",
    "Criteria",
    "CueRegion",
    "Design",
    "Effects",
    "Estimate",
    "Evidence",
    "ExaminationPlan",
    "Exemplars",
    "Findings",
    "Guesser",
    "Instance",
    "Placement",
    "Pool",
    "PoolCensus",
    "Pools",
    "Progress",
    "Remedy",
    "Retrained",
    "Samples",
    "Shown",
    "Stickers",
    "Transplant",
    "Verdict",
    "VerdictHistory",
    "adjust_families",
    "advice_for",
    "bootstrap",
    "bordered",
    "check_least",
    "choose_donors",
    "concatenate",
    "decide",
    "decide_guessed",
    "estimate",
    "examine",
    "exemplars",
    "find_head",
    "find_stickers",
    "flipped",
    "gather_evidence",
    "guess_margins",
    "holm",
    "illustrate",
    "in_spreads",
    "intervene",
    "intervened",
    "join_evidence",
    "locate",
    "margins",
    "necessity",
    "of_label",
    "placement",
    "predict_before",
    "probabilities",
    "region_of",
    "rejected",
    "remedies_of",
    "restrict",
    "retrain_last_layer",
    "screen",
    "sentence",
    "share_of_round",
    "sufficiency",
    "transplant",
    "transplanted",
    "unmeasured",
    "usable",
    "with_regions",
    "with_transplants",
]
