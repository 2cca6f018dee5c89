"""Nominate a cue, intervene, decide: does a class lean on its background, and how sure is that."""

from camtrain.reliance.collect import Collector
from camtrain.reliance.decide import decide, decide_guessed, images_needed, rejected, share_of_round, verdict_of
from camtrain.reliance.donors import choose_donors, usable
from camtrain.reliance.examine import Findings, Instance, examine, illustrate
from camtrain.reliance.exemplars import Exemplars, exemplars
from camtrain.reliance.guesses import Guesser, barrier_distance, guess_masks
from camtrain.reliance.infills import (
    blurred_background,
    filled_background,
    noise_background,
    place,
    swap_background,
)
from camtrain.reliance.interventions import (
    FRAME,
    NEAR_OBJECT,
    bordered,
    intervene,
    intervened,
    predict_before,
    probabilities,
    restrict,
)
from camtrain.reliance.looks import LOOKS, Look, look_of
from camtrain.reliance.records import STICKER, Criteria, Design, Effects, Estimate, Pool, Verdict, concatenate
from camtrain.reliance.regions import Evidence, Region, gather_evidence, join_evidence, region_of, with_regions
from camtrain.reliance.remedies import Advice, Remedy, advice_for, remedies_of
from camtrain.reliance.retrain import Retrained, find_head, retrain_last_layer
from camtrain.reliance.rounds import Plan, Shown, guess_margins, margins
from camtrain.reliance.statistics import (
    Contrast,
    adjust_families,
    bootstrap,
    estimate,
    holm,
    necessity,
    screen,
    sufficiency,
)
from camtrain.reliance.sticker_search import find_stickers
from camtrain.reliance.stickers import Placement, Stickers, placement
from camtrain.reliance.transplants import Transplant, flipped, sentence, transplant, with_transplants

__all__ = [
    "FRAME",
    "LOOKS",
    "NEAR_OBJECT",
    "STICKER",
    "Advice",
    "Collector",
    "Contrast",
    "Criteria",
    "Design",
    "Effects",
    "Estimate",
    "Evidence",
    "Exemplars",
    "Findings",
    "Guesser",
    "Instance",
    "Look",
    "Placement",
    "Plan",
    "Pool",
    "Region",
    "Remedy",
    "Retrained",
    "Shown",
    "Stickers",
    "Transplant",
    "Verdict",
    "adjust_families",
    "advice_for",
    "barrier_distance",
    "blurred_background",
    "bootstrap",
    "bordered",
    "choose_donors",
    "concatenate",
    "decide",
    "decide_guessed",
    "estimate",
    "examine",
    "exemplars",
    "filled_background",
    "find_head",
    "find_stickers",
    "flipped",
    "gather_evidence",
    "guess_margins",
    "guess_masks",
    "holm",
    "illustrate",
    "images_needed",
    "intervene",
    "intervened",
    "join_evidence",
    "look_of",
    "margins",
    "necessity",
    "noise_background",
    "place",
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
    "swap_background",
    "transplant",
    "usable",
    "verdict_of",
    "with_regions",
    "with_transplants",
]
