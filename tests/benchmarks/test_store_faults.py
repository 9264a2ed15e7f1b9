"""The campaign of store faults loses nothing, and would say so if it did."""

import pytest

from benchmarks.faults import store
from benchmarks.faults.__main__ import areas, main
from histotransfer_pl.store.feature_store import FeatureStore


def test_nothing_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert "store" in [area.name for area in areas()]
    assert main(["--areas", "store", "--share", "0.04", "--seed", "3"]) == 0
    assert "| store |" in capsys.readouterr().out


def test_a_blind_verify_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureStore, "verify", lambda self, **_: [])
    tally = store.campaign(0, 24)
    assert tally.lost > 0
    assert tally.tried == tally.survived + tally.lost + tally.unexplained
