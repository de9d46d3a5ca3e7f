"""Every setting of the algorithms, as frozen dataclasses that are checked when they are built.

An `AlgorithmConfig` says how credit is assigned (`AdvantageConfig`) and bent by uncertainty
(`ModulationConfig`), which steps are singled out (`OutlierConfig`), which terms act on those steps
(`SelectiveConfig`), what every step is trained with (`PolicyLossConfig`), how a critic is trained
where there is one (`CriticConfig`) and which groups are trained on (`SamplingConfig`). It does not
say how to roll out or batch. Defaults are the paper's values (STAPO, arXiv 2607.04963); where the
paper is silent the docstring says so and the choice stays a setting.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from stapo.algo.groups import AdvantageNorm as AdvantageNorm
from stapo.algo.registries import ADVANTAGE_ESTIMATORS, POLICY_LOSSES, STEP_CREDITS, STEP_SCORES
from stapo.algo.selective_config import BlindMask as BlindMask
from stapo.algo.selective_config import Bound as Bound
from stapo.algo.selective_config import Gate as Gate
from stapo.algo.selective_config import KlEstimator as KlEstimator
from stapo.algo.selective_config import SelectiveConfig as SelectiveConfig
from stapo.algo.selective_config import SelectiveNorm as SelectiveNorm
from stapo.algo.selective_config import Support as Support
from stapo.algo.selective_config import TaGrad as TaGrad
from stapo.algo.selective_config import TokenAggregation as TokenAggregation
from stapo.checks import check_choice, check_flag, check_integer, check_number
from stapo.errors import ConfigError
from stapo.registry import trait

EpisodeStats = Literal["trajectory", "step"]
PenaltyOn = Literal["return", "advantage"]
AnchorKind = Literal["exact", "similarity"]
StepGroups = Literal["anchor", "history"]
EqualMass = Literal["step", "trajectory"]
Modulation = Literal["none", "empg"]
Sides = Literal["both", "high", "low"]
Singleton = Literal["raw", "zero", "exclude"]
Select = Literal["iqr", "random", "all", "none"]
TokenSet = Literal["response", "action", "think"]
SimilarityFit = Literal["first", "best"]
Lone = Literal["zero", "return"]
LevelWeights = Literal["paper", "code"]
Ratio = Literal["token", "sequence"]
ReferenceKl = Literal["k1", "k2", "k3", "full"]
Truncated = Literal["keep", "mask"]
Aggregation = Literal["token", "step", "trajectory", "sequence-sum-norm"]

ROUNDING = {"float32": 0.0, "bfloat16": 2e-3, "float16": 2e-3}
"""Nats by which the entropy of a step moves with the rows beside it, by dtype (benchmarks/entropy_rounding.py). That of
float32, about 1e-7, is below `OutlierConfig.eps`."""


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """How rewards become advantages (STAPO eq. 6 and 7).

    Attributes:
        episode: advantage of the whole episode. ``grpo`` is eq. 6, ``rloo`` compares with the mean of the group's other
            trajectories, ``batch`` takes the return from the step on and whitens it over all rows of the batch, ``gae``
            compares with a critic's values (and has a critic trained), ``none`` leaves it out. Other packages add
            theirs; `stapo plugins` lists them.
        step_advantage: add the step advantage inside anchor groups (eq. 7).
        step_credit: how the step advantage is computed. ``return`` standardizes the step's discounted return (GiGPO,
            HGPO); ``pgpo`` adds the change in the state's mean return; ``graphgpo`` uses the distance of the next state
            from success; ``g2po`` uses the value of the next state inside the anchor group, and the gain in value
            inside the task. Other packages add theirs; `stapo plugins` lists them.
        step_groups: rows that ``step_credit=return`` compares a step with: those that saw the same (``anchor``), or the
            weighted mean over those that saw the same last 1, 2, … observations (``history``, HGPO).
        history_depth: earlier observations that must agree at HGPO's finest level (K); 0 or more.
        length_alpha: exponent of HGPO's level weights, (k + 1)^length_alpha; -100 to 100.
        level_weights: weights of HGPO's levels: those of its paper (`paper`), or of its published code (`code`):
            (k + 2)^length_alpha, and none for a level whose advantage is 0.
        omega: weight of the step advantage; 0 or more.
        potential_weight: weight of PGPO's potential differences where no attempt succeeds (beta); 0 or more.
        potential_power: exponent alpha in PGPO's weight * (1 - success rate of the task)^alpha; 0 to 100.
        potential_discount: discount of the next state's potential in PGPO's differences, per step, 0 to 1.
        distance_discount: discount of GraphGPO's reward per step of distance to success, 0 to 1.
        equal_mass: what has equal weight in the policy loss: each step, or each trajectory, whatever its length
            (BATON's trajectory mass normalization).
        discount: discount of the step return, per step, 0 to 1.
        episode_stats: take the mean and standard deviation of ``grpo`` over the group's trajectories, without
            penalties, or over its step rows, with them (long episodes weigh more; the baselines' code). Over
            trajectories a group whose attempts all scored the same has no advantage, and a penalty in its returns
            counts nothing.
        lone: advantage under ``grpo`` where there is nothing to compare with, one trajectory or, over step rows, one
            row: 0, or the return itself (baselines' code).
        advantage_norm: divide by the standard deviation, or center only (GiGPO's WebShop setting).
        invalid_penalty: penalty subtracted for a step whose action was invalid, in units of returns; 0 or more.
        invalid_penalty_on: put the penalty into the returns before normalizing (baselines' code), or flat on the
            advantage after it. Normalized inside an all-failed anchor group, the former grows to several units.
        std_floor: standard deviation, in units of returns, below which the advantage is 0; 0 or more.
        eps: term added to the standard deviation before dividing, in units of returns; 0 or more.
        ddof: degrees of freedom of the standard deviation, 0 to 1: 1 for the sample's, 0 for the population's.
        anchor: how observations are matched into anchor groups: ``exact`` by equality, ``similarity`` by likeness to a
            group's first member.
        similarity_fit: which group of those that are similar enough a text joins: the ``first`` that was founded
            (baselines' code), or the ``best``, whose first member is most similar (the paper's greedy maximum).
        similarity_threshold: least similarity to a group's first member, 0 to 1; used by ``anchor=similarity``.
    """

    episode: str = field(default="grpo", metadata={"registry": ADVANTAGE_ESTIMATORS})
    step_advantage: bool = True
    step_credit: str = field(default="return", metadata={"registry": STEP_CREDITS})
    step_groups: StepGroups = "anchor"
    history_depth: int = 2
    length_alpha: float = 1.0
    level_weights: LevelWeights = "paper"
    omega: float = 1.0
    potential_weight: float = 1.0
    potential_power: float = 2.0
    potential_discount: float = 1.0
    distance_discount: float = 0.1
    equal_mass: EqualMass = "step"
    discount: float = 0.95
    episode_stats: EpisodeStats = "trajectory"
    lone: Lone = "zero"
    advantage_norm: AdvantageNorm = "std"
    invalid_penalty: float = 0.1
    invalid_penalty_on: PenaltyOn = "return"
    std_floor: float = 1e-8
    eps: float = 1e-6
    ddof: int = 1
    anchor: AnchorKind = "exact"
    similarity_fit: SimilarityFit = "first"
    similarity_threshold: float = 0.9

    def __post_init__(self) -> None:
        ADVANTAGE_ESTIMATORS.check("advantage.episode", self.episode)
        check_flag("advantage.step_advantage", self.step_advantage)
        STEP_CREDITS.check("advantage.step_credit", self.step_credit)
        check_choice("advantage.step_groups", self.step_groups, get_args(StepGroups))
        check_integer("advantage.history_depth", self.history_depth, low=0)
        check_number("advantage.length_alpha", self.length_alpha, low=-100, high=100)
        check_number("advantage.omega", self.omega, low=0)
        check_number("advantage.potential_weight", self.potential_weight, low=0)
        check_number("advantage.potential_power", self.potential_power, low=0, high=100)
        check_number("advantage.potential_discount", self.potential_discount, low=0, high=1)
        check_number("advantage.distance_discount", self.distance_discount, low=0, high=1)
        check_choice("advantage.equal_mass", self.equal_mass, get_args(EqualMass))
        check_number("advantage.discount", self.discount, low=0, high=1)
        check_choice("advantage.level_weights", self.level_weights, get_args(LevelWeights))
        check_choice("advantage.episode_stats", self.episode_stats, get_args(EpisodeStats))
        check_choice("advantage.lone", self.lone, get_args(Lone))
        check_choice("advantage.advantage_norm", self.advantage_norm, get_args(AdvantageNorm))
        check_number("advantage.invalid_penalty", self.invalid_penalty, low=0)
        check_choice("advantage.invalid_penalty_on", self.invalid_penalty_on, get_args(PenaltyOn))
        check_number("advantage.std_floor", self.std_floor, low=0)
        check_number("advantage.eps", self.eps, low=0)
        check_integer("advantage.ddof", self.ddof, low=0, high=1)
        check_choice("advantage.anchor", self.anchor, get_args(AnchorKind))
        check_choice("advantage.similarity_fit", self.similarity_fit, get_args(SimilarityFit))
        check_number("advantage.similarity_threshold", self.similarity_threshold, low=0, high=1)
        if self.episode == "none" and not self.step_advantage:
            raise ConfigError(
                "advantage.episode is 'none' and advantage.step_advantage is False; expected at "
                "least one of the two advantages, or nothing is learned from rewards."
            )


@dataclass(frozen=True, kw_only=True)
class ModulationConfig:
    """How the entropy of a step modulates its advantage (EMPG, arXiv 2509.09265).

    Attributes:
        kind: ``empg`` scales the advantages of certain steps up and those of uncertain steps down, and adds a bonus for
            steps that lead to certainty; ``none`` leaves advantages alone.
        k: sharpness of the scale, per unit of normalized entropy, 0 to 50.
        k_future: sharpness of the bonus, per unit of normalized entropy, 0 to 50.
        zeta: weight of the bonus for certainty; 0 or more.
    """

    kind: Modulation = "none"
    k: float = 1.0
    k_future: float = 1.0
    zeta: float = 0.05

    def __post_init__(self) -> None:
        check_choice("modulation.kind", self.kind, get_args(Modulation))
        # Normalized entropies end at 1: exp(-50) is still a number in fp32.
        check_number("modulation.k", self.k, low=0, high=50)
        check_number("modulation.k_future", self.k_future, low=0, high=50)
        check_number("modulation.zeta", self.zeta, low=0)


@dataclass(frozen=True, kw_only=True)
class OutlierConfig:
    """Which steps are flagged (STAPO eq. 1 to 3).

    Attributes:
        select: ``iqr`` flags rows outside the fences, ``random`` as many rows at random (a control), ``all`` every row,
            ``none`` no row.
        metric: score that the fences apply to. ``normalized``: entropy z-scored inside its anchor group (eq. 2).
            ``shannon``: the plain entropy of eq. 1. Beyond the paper: ``leave-one-out``: against mean and standard
            deviation of the group's other rows; ``median-mad``: against the group's median, in units of its median
            absolute deviation; ``shrunken``: mean and variance of a group pulled toward those of the batch;
            ``running``: mean and variance of a state over iterations. See `stapo.algo.step_scores`; `stapo plugins`
            lists those of other packages.
        sides: flag steps beyond both fences, or beyond one only.
        lam: distance of the fences, in interquartile ranges; 0 or more.
        ddof: degrees of freedom of the standard deviation, 0 to 1: 1 for the sample's, 0 for the population's (the
            paper does not say).
        n_min: rows that an anchor group needs for its own scores; 2 or more. `singleton` scores the rows of smaller
            groups.
        singleton: score of a row in a smaller group: its raw entropy, zero, or none. Raw by default, after the paper's
            Limitations section.
        tokens: response tokens whose entropy counts: all of them, those of the action or those of the thought.
        max_fraction: maximum share of rows flagged, those farthest outside first; above 0, at most 1, or null for no
            bound.
        min_std: standard deviation, in nats, below which the rows of an anchor group are left out of fences and flags;
            0 or more, or null for the rounding of the run's dtype: 0 in float32, where `eps` is above it, 0.002 in
            bfloat16. Only for ``normalized``. Groups whose entropies hardly differ otherwise have large scores.
        std_floor: standard deviation, in nats, below which an anchor group that is not left out scores 0; 0 or more.
            Only for ``normalized``. It guards a division; `min_std` leaves groups out.
        eps: nats added to the standard deviation before dividing; 0 or more.
        min_scale: lower bound, in nats, of the standard deviation or scaled median absolute deviation that scores are
            divided by; above 0. For the metrics beyond the paper, whose scores have no bound.
        shrinkage: rows k of ``shrunken``: a group of n rows has the weight n / (n + k) against the batch; 0 or more.
        running_decay: share of a state's weight that ``running`` keeps per iteration, 0 to 1. Below 1, old entropies
            fade as the policy changes.
        running_states: maximum number of states that ``running`` remembers; 1 or more. Those seen last stay.
    """

    select: Select = "iqr"
    metric: str = field(default="normalized", metadata={"registry": STEP_SCORES})
    sides: Sides = "both"
    lam: float = 1.5
    ddof: int = 1
    n_min: int = 2
    singleton: Singleton = "raw"
    tokens: TokenSet = "response"
    max_fraction: float | None = None
    min_std: float | None = None
    std_floor: float = 1e-8
    eps: float = 1e-6
    min_scale: float = 0.01
    shrinkage: float = 5.0
    running_decay: float = 0.9
    running_states: int = 10_000

    def __post_init__(self) -> None:
        check_choice("outlier.select", self.select, get_args(Select))
        STEP_SCORES.check("outlier.metric", self.metric)
        check_choice("outlier.sides", self.sides, get_args(Sides))
        check_number("outlier.lam", self.lam, low=0)
        check_integer("outlier.ddof", self.ddof, low=0, high=1)
        check_integer("outlier.n_min", self.n_min, low=2)
        check_choice("outlier.singleton", self.singleton, get_args(Singleton))
        check_choice("outlier.tokens", self.tokens, get_args(TokenSet))
        if self.max_fraction is not None:
            check_number("outlier.max_fraction", self.max_fraction, low=0, high=1, open_low=True)
        if self.min_std is not None:
            check_number("outlier.min_std", self.min_std, low=0)
        check_number("outlier.std_floor", self.std_floor, low=0)
        check_number("outlier.eps", self.eps, low=0)
        check_number("outlier.min_scale", self.min_scale, low=0, open_low=True)
        check_number("outlier.shrinkage", self.shrinkage, low=0)
        check_number("outlier.running_decay", self.running_decay, low=0, high=1)
        check_integer("outlier.running_states", self.running_states, low=1)


@dataclass(frozen=True, kw_only=True)
class PolicyLossConfig:
    """The base objective of every step (STAPO eq. 9).

    Attributes:
        policy: loss of a token. ``clip`` is the clipped objective of eq. 9, to which the next four settings belong;
            `stapo plugins` lists those of other packages.
        ratio: ratio of new to old probability: one per ``token``, or one per response (``sequence``, GSPO), the
            geometric mean over its tokens.
        clip_low: distance below 1 at which the probability ratio is clipped, 0 to 1.
        clip_high: distance above one at which the probability ratio is clipped; 0 or more.
        dual_clip: bound on the loss of a negative advantage, in units of -A; above 1, or null for no bound.
        beta: weight of the KL divergence to the reference policy on the full prompt; 0 or more.
        kl: how that divergence is estimated: from the sampled tokens by ``k1`` (the log ratio; its gradient is 0 on
            average, so it measures and does not hold), ``k2`` (half its square; the gradient of the divergence where
            tokens are the policy's own) or ``k3`` (never negative; its gradient is that of the other direction), or by
            ``full``, the sum over the vocabulary, which passes the reference over every mini-batch.
        reference_every: iterations after which the reference becomes the policy of that moment, for P_TI as well; 0 or
            more, 0 keeps the starting policy.
        truncated: ``mask`` leaves steps whose response was cut off out of the loss and its divisors; their episodes
            still count in the advantages, so what such a step failed to earn lifts its siblings.
        entropy_coef: weight of the entropy bonus, per nat; 0 or more.
        aggregation: how token losses become one number; see `stapo.algo.loss.aggregate`. ``step`` is eq. 8 read as a
            mean over a step's tokens, then over steps.
        constant_length: tokens that ``sequence-sum-norm`` divides by; 1 or more, or null for the response limit of the
            run.
        kl_cap: nats up to which a token's divergence to the reference counts; above 0.
        log_ratio_clamp: bound, in nats, on log ratios before they are exponentiated; above 0, at most 80.
    """

    policy: str = field(default="clip", metadata={"registry": POLICY_LOSSES})
    ratio: Ratio = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = 3.0
    beta: float = 0.01
    kl: ReferenceKl = "k3"
    reference_every: int = 0
    truncated: Truncated = "keep"
    entropy_coef: float = 0.0
    aggregation: Aggregation = "step"
    constant_length: int | None = None
    kl_cap: float = 10.0
    log_ratio_clamp: float = 20.0

    def __post_init__(self) -> None:
        POLICY_LOSSES.check("loss.policy", self.policy)
        check_choice("loss.ratio", self.ratio, get_args(Ratio))
        check_number("loss.clip_low", self.clip_low, low=0, high=1)
        check_number("loss.clip_high", self.clip_high, low=0)
        if self.dual_clip is not None:
            check_number("loss.dual_clip", self.dual_clip, low=1, open_low=True)
        check_number("loss.beta", self.beta, low=0)
        check_integer("loss.reference_every", self.reference_every, low=0)
        check_choice("loss.kl", self.kl, get_args(ReferenceKl))
        check_choice("loss.truncated", self.truncated, get_args(Truncated))
        check_number("loss.entropy_coef", self.entropy_coef, low=0)
        check_choice("loss.aggregation", self.aggregation, get_args(Aggregation))
        if self.constant_length is not None:
            check_integer("loss.constant_length", self.constant_length, low=1)
        check_number("loss.kl_cap", self.kl_cap, low=0, open_low=True)
        check_number("loss.log_ratio_clamp", self.log_ratio_clamp, low=0, high=80, open_low=True)


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """How values are estimated and used; has no effect unless ``advantage.episode`` is ``gae``.

    Attributes:
        discount: discount of generalized advantage estimation, per step, 0 to 1.
        lam: lambda of generalized advantage estimation, 0 to 1; 1 is return minus value.
        whiten: center the advantages over the batch and divide by their standard deviation.
        learning_rate: peak learning rate of the critic's own AdamW; above 0, at most 1. The policy's schedule applies.
        value_clip: distance from its value at the start of the iteration, in units of returns, within which a value is
            trained; above 0, or null for no bound.
        value_coef: factor on the value loss; above 0. The critic has its own weights, so it matters where gradients are
            clipped.
        warmup_iterations: iterations at the start in which only the critic is trained; 0 or more.
    """

    discount: float = 1.0
    lam: float = 1.0
    whiten: bool = True
    learning_rate: float = 1e-5
    value_clip: float | None = 0.2
    value_coef: float = 1.0
    warmup_iterations: int = 0

    def __post_init__(self) -> None:
        check_number("critic.discount", self.discount, low=0, high=1)
        check_number("critic.lam", self.lam, low=0, high=1)
        check_flag("critic.whiten", self.whiten)
        check_number("critic.learning_rate", self.learning_rate, low=0, high=1, open_low=True)
        if self.value_clip is not None:
            check_number("critic.value_clip", self.value_clip, low=0, open_low=True)
        check_number("critic.value_coef", self.value_coef, low=0, open_low=True)
        check_integer("critic.warmup_iterations", self.warmup_iterations, low=0)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Which of the played groups are trained on.

    Attributes:
        dynamic: replace groups whose episodes all scored the same by groups of the next tasks (DAPO's dynamic
            sampling).
        max_rounds: maximum rounds of episodes per iteration, including the first; 1 or more. Then the run trains on the
            groups that it has.
    """

    dynamic: bool = False
    max_rounds: int = 10

    def __post_init__(self) -> None:
        check_flag("sampling.dynamic", self.dynamic)
        check_integer("sampling.max_rounds", self.max_rounds, low=1)


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """One algorithm: its name, its source and its components.

    Attributes:
        name: preset of the algorithm; `stapo algorithms` lists them.
        paper: citation of the method's paper.
        description: one line that says what sets the method apart.
        advantage: credit assignment.
        modulation: what entropy does to advantages.
        outlier: choice of flagged steps.
        selective: terms on flagged steps.
        loss: base objective.
        critic: value estimates, for algorithms that have a critic.
        sampling: choice of groups.
    """

    name: str
    paper: str
    description: str = ""
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    modulation: ModulationConfig = field(default_factory=ModulationConfig)
    outlier: OutlierConfig = field(default_factory=OutlierConfig)
    selective: SelectiveConfig = field(default_factory=SelectiveConfig)
    loss: PolicyLossConfig = field(default_factory=PolicyLossConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("name is ''; expected a name such as 'stapo'.")
        if self.advantage.equal_mass == "trajectory" and self.loss.aggregation == "trajectory":
            raise ConfigError(
                "advantage.equal_mass and loss.aggregation are both 'trajectory', which would divide by the length of "
                "an episode twice; set loss.aggregation to 'step'."
            )

    @property
    def needs_critic(self) -> bool:
        """Whether values have to be estimated."""
        return trait(ADVANTAGE_ESTIMATORS.get(self.advantage.episode), "needs_values", False)

    @property
    def needs_groups(self) -> bool:
        """Whether all credit comes from comparing trajectories of one group, so that a group of one has none."""
        return trait(ADVANTAGE_ESTIMATORS.get(self.advantage.episode), "needs_groups", False)

    @property
    def needs_states(self) -> bool:
        """Whether step scores compare with entropies of earlier iterations, by state."""
        return trait(STEP_SCORES.get(self.outlier.metric), "needs_states", False)

    @property
    def needs_every_row(self) -> bool:
        """Whether the base loss of a row whose advantage is 0 can move a weight."""
        loss = self.loss
        zero = trait(POLICY_LOSSES.get(loss.policy), "zero_without_advantage", False)
        return loss.beta > 0 or loss.entropy_coef > 0 or not zero

    @property
    def selective_on(self) -> bool:
        """Whether flagged steps get extra terms at all; if not, no blind pass is needed."""
        s = self.selective
        return self.outlier.select != "none" and s.blind_mask != "none" and (s.alpha > 0 or s.gamma > 0)

    def resolved(self, response_limit: int, dtype: str = "float32") -> AlgorithmConfig:
        """Fill in what a run decides where nothing is given: the divisor of ``sequence-sum-norm``, `outlier.min_std`.

        Args:
            response_limit: tokens of a response at most.
            dtype: of the weights that entropies are computed with.
        """
        found = self
        if self.loss.aggregation == "sequence-sum-norm" and self.loss.constant_length is None:
            found = replace(found, loss=replace(self.loss, constant_length=response_limit))
        rounding = ROUNDING.get(dtype, 0.0)
        if self.outlier.min_std is None and rounding:
            found = replace(found, outlier=replace(self.outlier, min_std=rounding))
        return found

    @property
    def needs_blind_reference(self) -> bool:
        """Whether the reference policy has to score blind prompts (P_TI has a weight)."""
        return self.selective_on and self.selective.gamma > 0

    @property
    def needs_reference(self) -> bool:
        """Whether a reference policy is needed at all."""
        compared = self.selective_on and self.selective.compares_reference
        return self.loss.beta > 0 or self.needs_blind_reference or compared
