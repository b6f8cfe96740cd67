"""Training: it learns, weights matter, early stopping restores, and a pause changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from simlab.context import Context
from simlab.errors import BadInput
from simlab.log import Log
from simlab.metrics.ranking import auc
from simlab.parts import part
from simlab.rankers.contract import Ranker, Sizes
from simlab.rankers.mf import MF
from simlab.seeds import Seed
from simlab.statistics import paired_interval
from simlab.training.examples import Source
from simlab.training.fit import FitSettings, fit
from simlab.training.settings import FitResult
from tests.rankers.worlds import Planted, planted

QUICK = FitSettings(epochs=4, batch_size=1024, split="round")


def new(family: str, log: Log, seed: int = 0, n_users: int | None = None, **spec: Any) -> Ranker:
    kind = part("ranker", family)
    assert issubclass(kind, Ranker)
    users = int(log.user.max()) + 1 if n_users is None else n_users
    width = 0 if log.features is None else log.features.shape[1]
    return kind.build(Sizes(users, log.n_items, width), spec, None, Seed(seed))


def small(seed: int = 0) -> Planted:
    return planted(users=60, items=30, rounds=15, seed=seed)


def all_scores(ranker: Ranker, log: Log, users: int) -> Tensor:
    with torch.no_grad():
        return ranker.score(Context.of(torch.arange(users), log.n_items))


def per_user_auc(scores: Tensor, truth: Tensor) -> Tensor:
    """AUC of each user's better half of the items against the other half."""
    good = truth > truth.median(1, keepdim=True).values
    return torch.tensor([auc(s, g) for s, g in zip(scores, good, strict=True)])


@pytest.mark.parametrize("family", ["mf", "neumf"])
@pytest.mark.parametrize(("loss", "negatives"), [("bce", 0), ("bpr", 0), ("mse", 0), ("bce", 2)])
def test_a_planted_truth_is_found(family: str, loss: str, negatives: int) -> None:
    p = planted()
    settings = FitSettings(epochs=12, batch_size=2048, split="round", loss=loss, negatives=negatives)
    ranker, baseline = new(family, p.log, past=0), new("popularity", p.log)
    done = fit(ranker, p.log, seed=Seed(1), settings=settings)
    fit(baseline, p.log, seed=Seed(1), settings=settings)
    mine = per_user_auc(all_scores(ranker, p.log, 300), p.truth)
    theirs = per_user_auc(all_scores(baseline, p.log, 300), p.truth)
    gain = paired_interval(mine, theirs, level=0.99)
    assert gain.low > 0.1, gain
    assert float(mine.mean()) > 0.75
    assert len(done.train) == len(done.validation) >= done.best_epoch > 0
    assert done.rows_per_second > 0


@pytest.mark.parametrize("family", ["mf", "neumf"])
def test_new_users_are_personalised_by_their_clicks(family: str) -> None:
    p = planted(users=400)
    train, test = p.log.rows(p.log.user < 300), p.log.rows(p.log.user >= 300)
    ranker = new(family, train, n_users=0, past=100)
    fit(ranker, train, seed=Seed(1), settings=FitSettings(epochs=12, batch_size=2048))
    baseline = new("popularity", train)
    fit(baseline, train, seed=Seed(1))
    last = test.rows(test.step == 39) if test.step is not None else test
    history, feedback = test.history(100)
    rows = test.step == 39
    seen = Context.of(last.user, 60, history=history[rows], feedback=feedback[rows])
    with torch.no_grad():
        gain = paired_interval(
            per_user_auc(ranker(seen), p.truth[300:]),
            per_user_auc(baseline(seen), p.truth[300:]),
            level=0.99,
        )
    assert gain.low > 0.05, gain


def test_click_weights_undo_position_bias() -> None:
    """The logger shows good items low, so clicks alone rank them wrongly and weighted clicks do not."""
    theta = 1 / torch.arange(1, 6).float()
    popular = planted(users=300, rank=1, seed=3).truth.mean(0)
    p = planted(users=300, rank=1, seed=3, examination=theta, logger=-popular)
    assert torch.equal(p.truth.mean(0), popular)
    worth = (1 / theta).expand(p.log.slate.shape)
    found = {}
    for name, click_weight, weight in (("clicks", None, None), ("ips", worth, None), ("both", None, worth)):
        for family in ("popularity", "mf"):
            ranker = new(
                family, p.log, n_users=0, **({"by": "rate"} if family == "popularity" else {"past": 0})
            )
            fit(ranker, p.log, seed=Seed(1), settings=QUICK, weight=weight, click_weight=click_weight)
            mean = all_scores(ranker, p.log, 1)[0]
            found[family, name] = auc(mean, popular > popular.median())
    for family in ("popularity", "mf"):
        assert found[family, "ips"] > 0.95, found
        assert found[family, "clicks"] < found[family, "ips"] - 0.1, found
        # As the docstring says: weighting non-clicks too is no remedy.
        assert found[family, "both"] < found[family, "ips"] - 0.1, found


def test_position_bias_is_learned_and_left_out() -> None:
    theta = torch.tensor([0.95, 0.6, 0.4, 0.25, 0.15])
    p = planted(examination=theta, rank=1)
    ranker = new("mf", p.log, n_users=0, past=0)
    settings = replace(QUICK, epochs=15, position_bias=True)
    done = fit(ranker, p.log, seed=Seed(0), settings=settings)
    assert len(done.slot_logits) == 5
    assert done.slot_logits[0] == 0
    assert list(done.slot_logits) == sorted(done.slot_logits, reverse=True)
    assert done.slot_logits[4] < -1
    plain = fit(new("mf", p.log, n_users=0, past=0), p.log, seed=Seed(0), settings=QUICK)
    assert plain.slot_logits == ()
    assert min(done.validation) < min(plain.validation) - 0.02
    assert "slots" not in dict(ranker.named_parameters())


def test_weight_zero_has_no_influence() -> None:
    """A batch with rows of weight zero has the gradient of the batch without them."""
    p = small()
    g = torch.Generator().manual_seed(0)
    weight = torch.rand(p.log.slate.shape, generator=g)
    keep = torch.rand(len(p.log), generator=g) < 0.5
    weight[~keep] = 0
    settings = FitSettings(epochs=4, batch_size=10**6, min_steps=1, validation=0.0, weight_decay=0.0)
    with_zeros, without = new("mf", p.log, past=0), new("mf", p.log, past=0)
    for ranker in (with_zeros, without):  # away from the base rate, where Adam would blow up rounding
        ranker.load_state_dict(ranker.state_dict() | {"bias": torch.tensor(0.3)})
    first = fit(with_zeros, p.log, weight=weight, seed=Seed(0), settings=settings)
    second = fit(without, p.log.rows(keep), weight=weight[keep], seed=Seed(0), settings=settings)
    assert first.train == pytest.approx(second.train, abs=1e-6)
    for key, value in with_zeros.state_dict().items():
        torch.testing.assert_close(value, without.state_dict()[key], atol=1e-5, rtol=0)
    unweighted = fit(new("mf", p.log, past=0), p.log, seed=Seed(0), settings=settings)
    assert abs(unweighted.train[3] - first.train[3]) > 1e-4


def test_the_best_epoch_is_restored() -> None:
    p = small()
    greedy = FitSettings(
        epochs=40, batch_size=256, learning_rate=0.1, split="round", patience=4, weight_decay=0.0
    )
    ranker = new("mf", p.log, dim=16, past=0)
    done = fit(ranker, p.log, seed=Seed(0), settings=greedy)
    assert len(done.train) == done.best_epoch + 4 < 40  # it overfits, and stops
    assert done.validation[done.best_epoch - 1] == min(done.validation)
    again = new("mf", p.log, dim=16, past=0)
    short = fit(again, p.log, seed=Seed(0), settings=replace(greedy, epochs=done.best_epoch))
    assert short.validation == done.validation[: done.best_epoch]
    same(ranker, again)
    assert not ranker.training


def same(a: Ranker, b: Ranker) -> None:
    """Assert that two rankers have the same bits."""
    theirs = b.state_dict()
    for key, value in a.state_dict().items():
        assert torch.equal(value, theirs[key]), key


CASES = {
    "bce": FitSettings(epochs=6, batch_size=256),
    "negatives": FitSettings(epochs=6, batch_size=256, loss="bpr", negatives=2),
    "position bias": FitSettings(epochs=6, batch_size=256, position_bias=True),
    "no validation": FitSettings(epochs=6, batch_size=256, validation=0.0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", ["mf", "neumf"])
def test_a_pause_changes_no_bit(
    family: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, settings = small(), CASES[name]
    weight = torch.rand(p.log.slate.shape, generator=torch.Generator().manual_seed(1))

    def run(ranker: Ranker, epochs: int, checkpoint: Path | None) -> FitResult:
        return fit(
            ranker,
            p.log,
            weight=weight,
            seed=Seed(4),
            settings=replace(settings, epochs=epochs),
            checkpoint=checkpoint,
        )

    whole = new(family, p.log)
    straight = run(whole, 6, None)
    # Stopped after two epochs, then killed in the middle of the fourth, then resumed: each time from files.
    path = tmp_path / "fit.safetensors"
    run(new(family, p.log), 2, path)
    calls, real = [0], torch.optim.AdamW.step

    def dies(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] > per_epoch + 3:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    per_epoch = batches(p.log, settings)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            run(new(family, p.log), 6, path)
    resumed = new(family, p.log, seed=99)  # whatever it starts with is replaced
    done = run(resumed, 6, path)
    same(resumed, whole)
    assert done.train == straight.train
    assert done.validation == straight.validation
    assert (done.best_epoch, done.slot_logits) == (straight.best_epoch, straight.slot_logits)
    assert [x.name for x in tmp_path.iterdir()] == ["fit.safetensors"]
    # Nothing is left to do now: the same result, at once.
    finished = new(family, p.log, seed=98)
    assert run(finished, 6, path).rows_per_second == 0
    same(finished, whole)


def batches(log: Log, settings: FitSettings) -> int:
    """Return the number of steps of one epoch, as counted by a run of its own."""
    count, real = [0], torch.optim.AdamW.step
    with pytest.MonkeyPatch.context() as patch:

        def step(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            return real(self, *args, **kwargs)

        patch.setattr(torch.optim.AdamW, "step", step)
        fit(new("mf", log), log, seed=Seed(4), settings=replace(settings, epochs=1))
    return count[0]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    p, path = small(), tmp_path / "fit.safetensors"
    fit(new("mf", p.log), p.log, seed=Seed(4), settings=QUICK, checkpoint=path)
    with pytest.raises(BadInput, match="from another ranker, log, seed or setting"):
        fit(new("mf", p.log), p.log, seed=Seed(5), settings=QUICK, checkpoint=path)
    with pytest.raises(BadInput, match="from another ranker"):
        fit(new("mf", small(1).log), small(1).log, seed=Seed(4), settings=QUICK, checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match="damaged or not a safetensors file"):
        fit(new("mf", p.log), p.log, seed=Seed(4), settings=QUICK, checkpoint=path)


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    p = small()
    before = torch.random.get_rng_state()
    first, second, third = (new("neumf", p.log) for _ in range(3))
    a = fit(first, p.log, seed=Seed(4), settings=QUICK)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.rand(5)
        b = fit(second, p.log, seed=Seed(4), settings=QUICK)
    c = fit(third, p.log, seed=Seed(5), settings=QUICK)
    same(first, second)
    assert a.train == b.train != c.train


def test_negatives_never_meet_positives() -> None:
    p = small()
    source = Source(p.log, 0)
    examples = source.sampled(torch.arange(len(p.log)), source.negatives(), 5, Seed(0))
    assert p.log.click is not None
    row, slot = (p.log.click > 0).nonzero().unbind(1)
    key = p.log.user[row] * 1000 + p.log.slate[row, slot]
    assert torch.equal(examples.items[:, 0], p.log.slate[row, slot])
    drawn = p.log.user[examples.round].unsqueeze(1) * 1000 + examples.items[:, 1:]
    assert not bool(torch.isin(drawn, key).any())
    assert examples.target.tolist() == [[1.0, 0, 0, 0, 0, 0]] * len(row)


def test_a_held_out_user_is_judged_as_a_new_one() -> None:
    """What is memorised of ids helps on held-out rounds, and cannot on held-out users."""
    p = small()
    by = {
        split: min(
            fit(
                new("mf", p.log, past=0),
                p.log,
                seed=Seed(0),
                settings=FitSettings(epochs=15, batch_size=256, split=split, validation=0.3),
            ).validation
        )
        for split in ("user", "round")
    }
    assert by["round"] < by["user"] - 0.02


class Spy(MF):
    """MF that notes who was scored, in which mode, and for which candidates."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[tuple[bool, Tensor, Tensor]] = []

    def score(
        self, context: Context, state: Float[Tensor, "user dim"] | None = None
    ) -> Float[Tensor, "user cand"]:
        self.seen.append((self.training, context.user, context.candidates))
        return super().score(context, state)


@pytest.mark.parametrize("negatives", [0, 3])
def test_what_the_ranker_is_shown(negatives: int) -> None:
    """Known users in train mode, strangers in eval mode, and new batches and negatives in every epoch."""
    p = small()
    spy = Spy.build(Sizes(60, 30), {})
    assert isinstance(spy, Spy)
    settings = FitSettings(epochs=2, batch_size=10**6, min_steps=1, negatives=negatives)
    fit(spy, p.log, seed=Seed(0), settings=settings)
    assert [training for training, _, _ in spy.seen] == [True, False, True, False]
    (_, first, items), (_, held, before), (_, second, others), (_, _, after) = spy.seen
    assert set(held.tolist()) == {60}
    assert len(set(first.tolist())) == 54
    assert set(first.tolist()) == set(second.tolist())
    assert not torch.equal(first, second)
    assert torch.equal(before, after)  # what judges stays the same
    if negatives:
        assert not torch.equal(items.sort(0).values, others.sort(0).values)
    else:
        assert torch.equal(items.sort(0).values, others.sort(0).values)


def test_small_data_are_cut_into_enough_steps() -> None:
    """As many as `min_steps`, but none of fewer than 64 examples; large batches are left alone by 1."""
    p = small()
    count = p.log.slate.numel()

    def steps(**settings: int) -> int:
        spy = Spy.build(Sizes(60, 30), {})
        assert isinstance(spy, Spy)
        fit(spy, p.log, seed=Seed(0), settings=FitSettings(epochs=1, validation=0.0, **settings))  # type: ignore[arg-type]
        return len(spy.seen)

    assert steps(min_steps=1) == -(-count // 4096)
    assert abs(steps(min_steps=4) - 4) <= 1
    most = steps(min_steps=10**6)
    assert 0.9 * count / 64 <= most <= 1.1 * count / 64 + 1


@pytest.mark.parametrize("family", ["mf", "neumf"])
def test_training_starts_at_the_base_rate(family: str) -> None:
    """After no useful step at all, every item has the logged rate; a trained intercept stays."""
    p = small()
    assert p.log.click is not None
    rate = float(p.log.click.float().mean())
    ranker = new(family, p.log, past=0)
    still = FitSettings(epochs=1, learning_rate=1e-9, weight_decay=0.0, validation=0.0)
    fit(ranker, p.log, seed=Seed(0), settings=still)
    with torch.no_grad():
        said = ranker.score(p.log.context()).sigmoid()
    assert float((said - rate).abs().max()) < 0.1
    assert float(said.mean()) == pytest.approx(rate, abs=0.02)
    before = {k: v.clone() for k, v in ranker.state_dict().items()}
    ranker.start(3.0)
    assert all(torch.equal(v, before[k]) for k, v in ranker.state_dict().items())


def test_a_pair_weighs_what_its_click_is_worth() -> None:
    """With bpr the worth of a click weighs its pairs; example weights weigh both sides."""
    p = small()
    g = torch.Generator().manual_seed(0)
    weight, worth = torch.rand(2, *p.log.slate.shape, generator=g)
    assert p.log.click is not None
    source = Source(p.log, 0, pairwise=True, weight=weight, click_weight=worth)
    rounds = torch.tensor([5, 2, 9])
    logged = source.logged(rounds)
    clicked = p.log.click[rounds] > 0
    assert torch.equal(logged.target, clicked.float())
    truth = torch.where(clicked, weight[rounds] * worth[rounds], weight[rounds])
    assert torch.equal(logged.weight, truth)
    sampled = source.sampled(rounds, source.negatives(), 2, Seed(0))
    row, slot = clicked.nonzero().unbind(1)
    torch.testing.assert_close(sampled.weight[:, 0], (weight * worth)[rounds[row], slot])
    assert bool((sampled.weight[:, 1:] == 1).all())
    plain = Source(p.log, 0, weight=weight, click_weight=worth).sampled(
        rounds, source.negatives(), 2, Seed(0)
    )
    assert torch.equal(plain.target[:, 0], worth[rounds[row], slot])
    assert torch.equal(plain.weight, weight[rounds[row], slot].unsqueeze(1).expand(-1, 3))


def test_one_user_is_split_by_rounds() -> None:
    p = planted(users=1, rounds=200)
    done = fit(new("mf", p.log), p.log, seed=Seed(0), settings=replace(QUICK, split="user"))
    assert len(done.validation) == len(done.train)


def test_the_bar_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    p = small()
    fit(new("mf", p.log), p.log, seed=Seed(0), settings=QUICK, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    fit(new("mf", p.log), p.log, seed=Seed(0), settings=QUICK)
    silent = capsys.readouterr()
    assert silent.out == silent.err == ""


def _nan(log: Log, value: float) -> Tensor:
    weight = torch.ones(log.slate.shape)
    weight[3, 1] = value
    return weight


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: {"log": replace(p.log, click=None)}, "this log has no column click"),
        (
            lambda p: {"log": replace(p.log, click=0 * p.log.slate.double()), "loss": "bpr", "negatives": 1},
            "nothing was clicked in",
        ),
        (
            lambda p: {"weight": _nan(p.log, float("nan"))},
            "weight, row 3, slot 1: nan is not at least 0 and finite",
        ),
        (lambda p: {"weight": _nan(p.log, -0.5)}, "weight, row 3, slot 1: -0.5 is not at least 0 and finite"),
        (lambda p: {"click_weight": _nan(p.log, float("inf"))}, "click_weight, row 3, slot 1: inf"),
        (lambda p: {"weight": torch.ones(2, 5)}, r"weight is \[2, 5\], but the log's slates are \[900, 5\]"),
        (lambda p: {"loss": "bcee"}, "there is no loss named bcee; did you mean bce?"),
        (lambda p: {"split": "users"}, "split is user or round, not users; did you mean user?"),
        (lambda p: {"epochs": 0}, "epochs is at least 1, not 0"),
        (lambda p: {"negatives": -1}, "negatives is at least 0, not -1"),
        (lambda p: {"learning_rate": 0.0}, "learning_rate is above 0, not 0.0"),
        (lambda p: {"validation": 1.0}, r"validation is a share in \[0, 1\), not 1.0"),
        (lambda p: {"position_bias": True, "negatives": 1}, "a drawn negative was at no slot"),
        (lambda p: {"learning_rate": 1e30}, "try a smaller learning_rate"),
        (lambda p: {"log": replace(p.log, n_items=31)}, "31 items, but the ranker was built for 30"),
        (
            lambda p: {"log": replace(p.log, features=torch.zeros(900, 2))},
            "2 features, but the ranker was built for 0",
        ),
        (
            lambda p: {
                "log": replace(p.log, slate=p.log.slate[:, :1], click=p.log.reward.unsqueeze(1)),
                "position_bias": True,
            },
            "this log has one slot",
        ),
    ],
)
def test_refusals(change: Any, sentence: str) -> None:
    p = small()
    given = change(p)
    log, weights = given.pop("log", p.log), {k: given.pop(k, None) for k in ("weight", "click_weight")}
    with pytest.raises(BadInput, match=sentence) as caught:
        fit(new("mf", p.log), log, seed=Seed(0), settings=replace(QUICK, **given), **weights)
    assert "\n" not in str(caught.value)
