"""A study's report as Markdown, and as one self-contained HTML page with plots."""

from __future__ import annotations

import shlex

from open_clip_ext.files import write_text
from open_clip_ext.study import figures, report
from open_clip_ext.study.results import Results

MARKDOWN, PAGE = "study.md", "study.html"


def write(found: Results) -> None:
    """Write both into the study's folder."""
    write_text(found.out / MARKDOWN, report.markdown(found))
    write_text(found.out / PAGE, html(found))


def html(found: Results) -> str:
    """The page."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader
    from markupsafe import Markup

    from open_clip_ext.evaluation.comparison import figures as compared
    from open_clip_ext.evaluation.comparison.page import cell

    packages = ("open_clip_ext.study", "open_clip_ext.evaluation.comparison")
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ".") for package in packages]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    number = {name: k for k, name in enumerate(dict.fromkeys(model.method for model in found.models))}
    plots = {
        f"against/{reference}": [
            Markup(figures.differences(family, [(m, number[m], d) for m, d in differences]))
            for family, differences in by_family.items()
        ]
        for reference, by_family in report.differences(found).items()
    }
    families = report.families(found)
    kept = next((family for family in families if family != "composition"), None)
    if kept and "composition" in families:
        plots["summary"] = [Markup(figures.curves(found, kept, "composition"))]
    done = [need for part in found.sweeps for need in (*part.needs, part)]
    return environment.get_template("page.html").render(
        title=found.study.title,
        notes=found.study.notes,
        legend=list(number.items()),
        colours=compared.COLOURS,
        mark=lambda k: Markup(compared.mark(k)),
        parts=report.parts(found),
        plots=plots,
        folder=found.study.folder,
        toml=found.study.text,
        commands=[(part.name, shlex.join(part.words)) for part in done],
    )


def text(found: Results) -> str:
    """For a terminal."""
    return report.text(found)
