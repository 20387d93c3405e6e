"""A page of text and equations, to be printed in a terminal, in LaTeX or in a notebook."""

from dataclasses import dataclass, field

from localplast.show.notation import escape, math_name, math_text, plain_text

__all__ = ["Description", "Equation", "Section", "assignments"]


@dataclass(frozen=True)
class Equation:
    """One equation: as text, and as the left and right side in LaTeX."""

    text: str
    left: str
    right: str


def assignments(program, indices):
    """A program as equations; ``indices`` maps names to ``i``, ``j``, ``ij`` or nothing."""
    for name, expression in program:
        left = math_name(name, indices.get(name, ""))
        yield Equation(f"{name} = {plain_text(expression)}", left, math_text(expression, indices))


@dataclass(frozen=True)
class Section:
    """A title and what stands under it, sentences and equations."""

    title: str
    body: tuple


@dataclass(frozen=True)
class Description:
    """What ``rule.describe(net)`` returns: ``str()`` for a terminal, ``.latex()`` for a paper, and itself in a
    notebook.

    Attributes
    ----------
    title : str
    lines : tuple of str
    sections : tuple of Section
    storage : dict of str to Storage
        What is kept, by projection; empty where the rule is not local.
    reads : dict of str to Reads
        What every synapse reads, by projection.
    audit : Audit or None
        Whether it is local (:mod:`localplast.program.locality`).
    """

    title: str
    lines: tuple
    sections: tuple
    storage: dict = field(default_factory=dict)
    reads: dict = field(default_factory=dict)
    audit: object = None

    def __str__(self):
        parts = [self.title, *(f"  {line}" for line in self.lines)]
        for section in self.sections:
            parts += ["", section.title]
            parts += [f"    {item.text}" if isinstance(item, Equation) else f"  {item}" for item in section.body]
        return "\n".join(parts)

    __repr__ = __str__

    def latex(self):
        """The same as LaTeX; it needs the package amsmath."""
        parts = [rf"\section*{{{escape(self.title)}}}", *(escape(line) + r"\\" for line in self.lines)]
        for section in self.sections:
            parts.append(rf"\subsection*{{{escape(section.title)}}}")
            for group in grouped(section.body):
                if isinstance(group, str):
                    parts.append(rf"\noindent {escape(group.strip())}\par")
                else:
                    parts += [r"\begin{align*}", aligned(group), r"\end{align*}"]
        return "\n".join(parts)

    def _repr_markdown_(self):
        parts = [f"### {self.title}", *self.lines]
        for section in self.sections:
            parts.append(f"#### {section.title}")
            parts += [group if isinstance(group, str) else display(group) for group in grouped(section.body)]
        return "\n\n".join(parts)

    def _repr_latex_(self):
        groups = [group for section in self.sections for group in grouped(section.body)]
        return "\n\n".join(display(group) for group in groups if not isinstance(group, str))


def grouped(body):
    """Sentences as they are, and runs of equations as lists."""
    run = []
    for item in body:
        if isinstance(item, Equation):
            run.append(item)
            continue
        if run:
            yield run
        run = []
        yield item
    if run:
        yield run


def aligned(equations):
    return " \\\\\n".join(rf"{e.left} &\leftarrow {e.right}" for e in equations)


def display(equations):
    return f"$$\\begin{{aligned}}\n{aligned(equations)}\n\\end{{aligned}}$$"
