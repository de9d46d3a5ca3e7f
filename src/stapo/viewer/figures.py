"""The curves of a run as data: what is drawn, in which color, and what a reader should look for.

Figures whose `panels` are in the report's plots.yaml are those of the report; the few that the report draws by hand are
described here.
"""

from __future__ import annotations

from typing import Any

from stapo.documents import package_data
from stapo.report.data import RunLog

_TYPE_COLORS = ("blue", "orange", "green", "red", "purple", "teal", "brown", "grey")
_SECTIONS = {
    "Success and behavior": ("success", "types", "behavior", "lengths", "endings", "signal"),
    "Entropy and outliers": ("entropy", "outliers", "fences", "attribution"),
    "Update and time": ("gradients", "clipping", "critic", "agreement", "seconds"),
}


def figures(log: RunLog, columns: dict[str, list[float | None]]) -> list[dict[str, Any]]:
    """The figures of a run that have anything to draw.

    Args:
        log: the run.
        columns: see `stapo.viewer.pages.columns`.
    """
    texts = package_data("stapo.report", "plots.yaml")
    own = _by_hand(columns)
    found = []
    for section, keys in _SECTIONS.items():
        for key in keys:
            entry = texts[key]
            panels = [_panel(panel, columns) for panel in own.get(key) or entry.get("panels", ())]
            panels = [panel for panel in panels if panel["lines"]]
            if panels:
                words = {"smoothing": "", "split": log.setting("eval.split", "?"), "left_out": ""}
                said = {part: str(entry[part]).format(**words) for part in ("title", "shows", "look_for", "bad_sign")}
                found.append({"key": key, "section": section, "panels": panels, **said})
    return found


def _panel(panel: Any, columns: dict[str, list[float | None]]) -> dict[str, Any]:
    lines = [
        {"label": label, "path": path, "color": color, "dashed": bool(style)}
        for label, path, color, *style in panel["lines"]
        if any(value is not None for value in columns.get(path, ()))
    ]
    return {"label": panel["label"], "scale": panel.get("scale", ""), "zero": bool(panel.get("zero")), "lines": lines}


def _by_hand(columns: dict[str, list[float | None]]) -> dict[str, list[dict[str, Any]]]:
    def below(prefix: str, most: int = len(_TYPE_COLORS)) -> list[list[str]]:
        names = [path for path in columns if path.startswith(f"{prefix}.")][:most]
        return [
            [path.removeprefix(f"{prefix}.").replace("_", " "), path, color]
            for path, color in zip(names, _TYPE_COLORS, strict=False)
        ]

    return {
        "success": [{"label": "episodes won", "scale": "whole", "lines": [["training episodes", "success", "blue"]]}],
        "types": [{"label": "episodes won", "scale": "whole", "lines": below("success_by_type")}],
        "endings": [{"label": "episodes", "lines": below("stop_reasons")}],
        "entropy": [
            {
                "label": "entropy (nats)",
                "lines": [
                    ["mean", "entropy.mean", "blue"],
                    ["median", "entropy.quantiles.2", "blue", ":"],
                    ["5 %", "entropy.quantiles.0", "grey", ":"],
                    ["95 %", "entropy.quantiles.4", "grey", ":"],
                ],
            }
        ],
        "outliers": [
            {
                "label": "steps flagged",
                "scale": "percent",
                "lines": [
                    ["high entropy", "outlier.high_share", "orange"],
                    ["low entropy", "outlier.low_share", "blue"],
                ],
            }
        ],
        "gradients": [
            {"label": "gradient norm", "lines": [["norm", "update.grad_norm", "blue"]]},
            {
                "label": "selective ÷ base",
                "lines": [["selective ÷ base", "update.selective_gradient_ratio", "orange"]],
            },
        ],
        "seconds": [{"label": "seconds", "lines": below("seconds")}],
    }
