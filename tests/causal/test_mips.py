"""Marginalised IPS: exact where the reward hangs on the embedding alone, its documented bias where it does
not."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor

from causal.bandit.mips import MIPS
from causal.bandit.sn_mips import SNMIPS
from causal.contract import value
from causal.mips import (
    Categories,
    Clusters,
    Embedding,
    Likelihoods,
    learned_marginal_weight,
    marginal_weight,
)
from causal.rounds import rounds
from causal.tuning.tune import tune
from simlab.errors import BadInput
from simlab.log import Log
from tests.worlds import BanditWorld, Softmax, population_value, table

EXACT = 1e-10
CLUSTER = torch.tensor([0, 0, 1, 1])
CHANCE = torch.tensor(
    [[[0.7, 0.3], [0.1, 0.9]], [[0.2, 0.8], [0.5, 0.5]], [[0.4, 0.6], [0.6, 0.4]]], dtype=torch.float64
)
"""p(e_d = c | a) of three items, two dimensions of two categories."""


def clustered(reward: Tensor) -> BanditWorld:
    """Four items in two clusters."""
    return BanditWorld(
        chance=table([0.3, 0.7])[0],
        reward=reward,
        logger=table([0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]),
        target=table([0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]),
    )


def policies(world: BanditWorld) -> tuple[Softmax, Softmax]:
    return Softmax(world.target.log()), Softmax(world.logger.log())


ALIKE = table([0.2, 0.2, 0.9, 0.9], [0.6, 0.6, 0.1, 0.1])
UNLIKE = table([0.2, 0.5, 0.9, 0.4], [0.6, 0.1, 0.1, 0.7])


@pytest.mark.parametrize("estimator", [MIPS(), SNMIPS()])
def test_clusters_are_exact_without_a_direct_effect(estimator: MIPS | SNMIPS) -> None:
    world = clustered(ALIKE)
    every = world.listed()
    found, p = world.rounds()
    weight = marginal_weight(every.log, *policies(world), Clusters(CLUSTER))
    assert population_value(estimator.score(replace(found, embedding=weight)), p) == pytest.approx(
        world.value(), abs=EXACT
    )
    # It is what marginalising is for: the weights vary less.
    assert float((p * weight**2).sum()) < float((p * found.weight**2).sum())
    assert float((p * weight).sum()) == pytest.approx(1, abs=EXACT)


def test_with_a_direct_effect_the_bias_is_the_documented_one() -> None:
    """The paper's theorem on bias, by loops over contexts, clusters and pairs of items."""
    world = clustered(UNLIKE)
    every = world.listed()
    found, p = world.rounds()
    weight = marginal_weight(every.log, *policies(world), Clusters(CLUSTER))
    bias = population_value(MIPS().score(replace(found, embedding=weight)), p) - world.value()
    wanted = 0.0
    for x in range(2):
        for e in range(2):
            items = [a for a in range(4) if CLUSTER[a] == e]
            here = float(sum(world.logger[x, a] for a in items))
            for a, b in combinations(items, 2):
                given = float(world.logger[x, a] * world.logger[x, b]) / here**2
                apart = float(world.reward[x, a] - world.reward[x, b])
                ratio = world.target[x] / world.logger[x]
                wanted += float(world.chance[x]) * here * given * apart * float(ratio[b] - ratio[a])
    assert abs(wanted) > 0.01
    assert bias == pytest.approx(wanted, abs=EXACT)


def test_items_that_are_their_own_embedding_give_the_plain_weight() -> None:
    world = clustered(UNLIKE)
    every = world.listed()
    weight = marginal_weight(every.log, *policies(world), Clusters(torch.arange(4)))
    assert torch.allclose(weight, world.rounds()[0].weight, atol=EXACT)
    # And where all items are one, there is nothing to weigh.
    one = marginal_weight(every.log, *policies(world), Clusters(torch.zeros(4, dtype=torch.long)))
    assert torch.allclose(one, torch.ones_like(one), atol=EXACT)


def drawn_embeddings() -> tuple[BanditWorld, Log, Tensor, Tensor, Tensor]:
    """List (context, item, e, reward): e = two dimensions drawn given the item, reward by (context, e)."""
    by_e = torch.tensor([[[0.9, 0.2], [0.4, 0.6]], [[0.1, 0.5], [0.8, 0.3]]], dtype=torch.float64)
    likely = CHANCE[:, 0, :, None] * CHANCE[:, 1, None, :]  # [item, e_0, e_1]
    reward = torch.einsum("aef,xef->xa", likely, by_e)
    world = BanditWorld(
        chance=table([0.3, 0.7])[0],
        reward=reward,
        logger=table([0.6, 0.3, 0.1], [0.2, 0.5, 0.3]),
        target=table([0.1, 0.2, 0.7], [0.5, 0.25, 0.25]),
    )
    x, a, e, f, r = torch.cartesian_prod(*(torch.arange(n) for n in (2, 3, 2, 2, 2))).unbind(1)
    p = world.chance[x] * world.logger[x, a] * likely[a, e, f]
    p = p * torch.where(r == 1, by_e[x, e, f], 1 - by_e[x, e, f])
    log = Log(
        user=torch.arange(len(x)),
        slate=a[:, None],
        propensity=world.logger[x, a],
        reward=r.double(),
        n_items=3,
        features=x[:, None].double(),
    )
    return world, log, p, torch.stack([e, f], 1), likely[:, e, f].T


def test_stochastic_embeddings_of_several_dimensions_are_exact() -> None:
    world, log, p, shown, likely = drawn_embeddings()
    found = rounds(log, Softmax(world.target.log()))
    known: list[Embedding] = [Categories(CHANCE, shown), Likelihoods(likely)]
    for embedding in known:
        assert isinstance(embedding, Embedding)
        weight = marginal_weight(log, *policies(world), embedding)
        assert population_value(MIPS().score(replace(found, embedding=weight)), p) == pytest.approx(
            world.value(), abs=EXACT
        )
    # Twin: a row's weight is the mean of the items' weights given its embedding.
    weight = marginal_weight(log, *policies(world), known[0])
    for i in range(0, len(log), 7):
        x = int(log.context().features[i, 0])
        share = world.logger[x] * likely[i]
        assert float(weight[i]) == pytest.approx(
            float((share / share.sum() * world.target[x] / world.logger[x]).sum()), abs=EXACT
        )


def test_tables_are_as_good_as_policies_and_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    world, log, _, shown, _ = drawn_embeddings()
    which = log.context().features[:, 0].long()
    one = marginal_weight(log, *policies(world), Categories(CHANCE, shown))
    monkeypatch.setattr("causal.mips._CELLS", 20)
    two = marginal_weight(log, world.target[which], world.logger[which], Categories(CHANCE, shown))
    assert torch.allclose(one, two, atol=EXACT)


def big(n: int) -> tuple[BanditWorld, Log, Tensor]:
    world, log, p, shown, _ = drawn_embeddings()
    pick = torch.multinomial(p, n, replacement=True, generator=torch.Generator().manual_seed(0))
    return world, replace(log.rows(pick), user=torch.arange(n)), shown[pick]


def test_learned_weights_come_near_the_known_ones() -> None:
    """A tree on (x, e) is saturated here, so both ways of learning converge to w(x, e)."""
    world, log, shown = big(6000)
    target, logger = policies(world)
    known = marginal_weight(log, target, logger, Categories(CHANCE, shown))
    forest = RandomForestClassifier(n_estimators=1, bootstrap=False, max_features=None)
    by_class = learned_marginal_weight(log, target, shown, forest, logger)
    by_value = learned_marginal_weight(log, target, shown, DecisionTreeRegressor())
    for learned in (by_class, by_value):
        assert float((learned - known).abs().max()) < 0.25 * float(known.max())
        assert float((learned - known).abs().mean()) < 0.05
        found = replace(rounds(log, target), embedding=learned)
        assert value(SNMIPS().score(found)) == pytest.approx(world.value(), abs=0.03)
    # Numbers, as they are, do as well as categories; a table as well as a policy.
    which = log.context().features[:, 0].long()
    again = learned_marginal_weight(log, target, shown.double(), forest, world.logger[which])
    assert float((again - by_class).abs().max()) < 1e-9


def test_learned_weights_are_out_of_fold_in_time_order_too() -> None:
    world, log, shown = big(400)
    target, _ = policies(world)
    time = torch.arange(400)
    tree = DecisionTreeRegressor()
    one = learned_marginal_weight(log, target, shown, tree, order="time", time=time)
    assert bool(one[:100].isnan().all())
    assert bool(one[100:].isfinite().all())
    # Another end of the log leaves the beginning as it was.
    later = torch.where(time[:, None] < 200, log.slate, (log.slate + 1) % 3)
    other = replace(log, slate=later)
    two = learned_marginal_weight(other, target, shown, tree, order="time", time=time)
    assert torch.equal(one[100:200], two[100:200])


def test_an_item_that_a_fold_never_saw_has_no_share() -> None:
    world, log, shown = big(90)
    target, logger = policies(world)
    few = replace(log, slate=torch.where(log.slate == 2, 1, log.slate), propensity=torch.full((90,), 0.4))
    forest = RandomForestClassifier(n_estimators=3)
    weight = learned_marginal_weight(few, target, shown, forest, logger)
    assert bool(weight.isfinite().all())
    assert float(weight.max()) <= max(2.5, 1 / 6 * 5)  # item 2 alone has weight 7


@pytest.mark.parametrize(("reward", "chosen"), [(ALIKE, 1), (UNLIKE, 0)])
def test_lepski_s_rule_chooses_the_embedding(reward: Tensor, chosen: int) -> None:
    """Clusters where items of one are alike, items where they are not: one list of MIPS, one of rounds."""
    world = clustered(reward)
    log = replace(world.listed().draw(20_000, 1), user=torch.arange(20_000))
    target, logger = policies(world)
    found = rounds(log, target)
    weights = [marginal_weight(log, target, logger, Clusters(c)) for c in (torch.arange(4), CLUSTER)]
    seen = [replace(found, embedding=w) for w in weights]
    tuned = tune([MIPS(), MIPS()], seen, "slope", labels=["items", "clusters"])
    assert tuned.choice.index == chosen
    assert abs(tuned.value - world.value()) < 4 * tuned.estimate().stderr


def test_refusals() -> None:
    world, log, _, shown, likely = drawn_embeddings()
    target, logger = policies(world)
    with pytest.raises(BadInput, match="item 1, dimension 0: the chances of the categories sum to 2, not 1"):
        Categories(torch.tensor([[[0.5, 0.5]], [[1.0, 1.0]]]), shown[:, :1])
    with pytest.raises(BadInput, match="row 0, dimension 0: 5 is no category, there are 2 from 0"):
        Categories(CHANCE, shown + 5)
    with pytest.raises(BadInput, match="1 dimensions were seen, but there are 2"):
        Categories(CHANCE, shown[:, :1])
    with pytest.raises(BadInput, match="row 0: the logger's policy cannot have shown the embedding"):
        marginal_weight(log, target, logger, Likelihoods(torch.zeros_like(likely)))
    with pytest.raises(BadInput, match=r"column propensity, row 0: 0.6, but the logger's policy shows"):
        marginal_weight(log, target, target, Likelihoods(likely))
    assert len(marginal_weight(log, target, target, Likelihoods(likely), check=False)) == len(log)
    half = world.logger[log.context().features[:, 0].long()] / 2
    with pytest.raises(BadInput, match=r"row 0: the logger's probabilities sum to 0.5, not 1"):
        marginal_weight(log, target, half, Likelihoods(likely))
    with pytest.raises(BadInput, match=r"the logger's table is \[3, 3\], but there are 48 rows"):
        marginal_weight(log, target, half[:3], Likelihoods(likely))
    with pytest.raises(BadInput, match="needs the logger's whole policy"):
        learned_marginal_weight(log, target, shown, RandomForestClassifier())
    with pytest.raises(BadInput, match="embeddings of 5 rounds, but the log has 48"):
        learned_marginal_weight(log, target, shown[:5], DecisionTreeRegressor())
    slates = replace(log, slate=torch.tensor([[0, 1]]).expand(48, -1), propensity=torch.full((48,), 0.1))
    with pytest.raises(BadInput, match="marginal weights are for one item a row, but slate has 2 slots"):
        marginal_weight(slates, target, logger, Likelihoods(likely))


def test_what_is_not_of_this_log_is_refused() -> None:
    """Tables and embeddings with NaN, or of other rows, items or candidates."""
    world, log, _, shown, likely = drawn_embeddings()
    target, logger = policies(world)
    which = log.context().features[:, 0].long()
    hole = world.target[which].clone()
    hole[5, 1] = torch.nan
    with pytest.raises(BadInput, match=r"row 5: the target's probability of candidate 1 is nan"):
        marginal_weight(log, hole, logger, Likelihoods(likely))
    with pytest.raises(BadInput, match=r"row 5: the logger's probability of candidate 1 is nan"):
        marginal_weight(log, target, hole, Likelihoods(likely), check=False)
    with pytest.raises(BadInput, match=r"row 5: the logger's probability of candidate 1 is nan"):
        learned_marginal_weight(log, target, shown, RandomForestClassifier(), hole)
    for odd in (torch.nan, -0.1, torch.inf):
        wrong = likely.clone()
        wrong[7, 2] = odd
        with pytest.raises(BadInput, match=rf"row 7, candidate 2: {odd:g} is no likelihood"):
            Likelihoods(wrong)
    with pytest.raises(
        BadInput, match="item 0, dimension 1: the chances of the categories sum to nan, not 1"
    ):
        Categories(torch.where(CHANCE == 0.1, torch.nan, CHANCE), shown)
    with pytest.raises(BadInput, match="47 rounds have an embedding, but the log has 48"):
        marginal_weight(log, target, logger, Categories(CHANCE, shown[:47]))
    with pytest.raises(BadInput, match="2 items have chances of categories, but the log has 3"):
        marginal_weight(log, target, logger, Categories(CHANCE[:2], shown))
    with pytest.raises(BadInput, match="2 items have a cluster, but the log has 3"):
        marginal_weight(log, target, logger, Clusters(torch.tensor([0, 1])))
    with pytest.raises(BadInput, match=r"likelihoods are a table of \[48, 2\], but there are 48 rounds of 3"):
        marginal_weight(log, target, logger, Likelihoods(likely[:, :2]))
    with pytest.raises(BadInput, match="shown, row 3, dimension 1: nan is not a finite number"):
        learned_marginal_weight(
            log,
            target,
            shown.double().index_put((torch.tensor(3), torch.tensor(1)), torch.tensor(torch.nan).double()),
            DecisionTreeRegressor(),
        )


class Foreign:
    """An embedding of one's own, with the wrong shape or value."""

    def __init__(self, said: Tensor) -> None:
        self.said = said

    def likelihood(self, rows: slice, item: Tensor, candidates: Tensor) -> Tensor:
        return self.said[rows]


def test_an_embedding_of_one_s_own_is_checked_too() -> None:
    world, log, _, _, likely = drawn_embeddings()
    target, logger = policies(world)
    assert torch.equal(
        marginal_weight(log, target, logger, Foreign(likely)),
        marginal_weight(log, target, logger, Likelihoods(likely)),
    )
    with pytest.raises(BadInput, match=r"Foreign gave likelihoods of \[48, 2\] for \[48, 3\] rows and"):
        marginal_weight(log, target, logger, Foreign(likely[:, :2]))
    holes = torch.where(torch.arange(48)[:, None] == 4, torch.nan, likely)
    with pytest.raises(BadInput, match="row 4, candidate 0: nan is no likelihood"):
        marginal_weight(log, target, logger, Foreign(holes))


def test_designs_of_many_categories_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world, log, _, shown, _ = drawn_embeddings()
    monkeypatch.setattr("causal.sklearn_reward.LARGEST", 48 * 5 - 1)  # one feature, two dimensions of two
    with pytest.raises(BadInput, match="the design of 48 rows and 5 columns"):
        learned_marginal_weight(log, policies(world)[0], shown, DecisionTreeRegressor())
