"""Tables of mean ± standard deviation over seeds, for people (Markdown), papers (LaTeX) and programs (CSV)."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from localplast.errors import LocalplastError
from localplast.files import atomic_write

__all__ = ["Column", "Table", "check_table_path", "spread"]

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "\n": " ",
}


def latex(text):
    """``text`` with everything that LaTeX would take as a command made harmless."""
    return "".join(LATEX.get(character, character) for character in text)


def spread(values, digits):
    """Mean ± sample standard deviation; of a single seed its value alone; says how many seeds have a value if not all
    do.
    """
    values = np.atleast_1d(np.asarray(values, float))
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "-"
    text = f"{finite.mean():.{digits}f}"
    if len(finite) > 1:
        text += f" ± {finite.std(ddof=1):.{digits}f}"
    return text if len(finite) == len(values) else f"{text} ({len(finite)} of {len(values)})"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    title : str
        With the unit.
    values : sequence
        One entry per row: text, or numbers of all seeds ``(seed,)`` where there are ``digits``.
    digits : int, optional
        Behind the decimal point, for people; CSV has all of them.
    """

    title: str
    values: list
    digits: int | None = None

    @property
    def empty(self):
        """Whether no row has a number."""
        return self.digits is not None and not any(np.isfinite(v).any() for v in self.values)

    def cell(self, row):
        value = self.values[row]
        return str(value) if self.digits is None else spread(value, self.digits)

    @property
    def plain_titles(self):
        return [self.title] if self.digits is None else [f"{self.title}, {what}" for what in ("mean", "sd", "n")]

    def plain(self, row):
        """For programs: the text; or mean, sd and the number of finite values, None where there are too few."""
        if self.digits is None:
            return [str(self.values[row])]
        values = np.atleast_1d(np.asarray(self.values[row], float))
        finite = values[np.isfinite(values)]
        return [
            float(finite.mean()) if len(finite) else None,
            float(finite.std(ddof=1)) if len(finite) > 1 else None,
            len(finite),
        ]


@dataclass(frozen=True)
class Table:
    """Columns of equal length, and lines that say what was measured, on what, and by which command.

    Parameters
    ----------
    header : tuple of str
    columns : tuple of Column
    """

    header: tuple
    columns: tuple

    @property
    def titles(self):
        return [column.title for column in self.columns]

    @property
    def rows(self):
        """Cells as text, row by row."""
        return [[column.cell(row) for column in self.columns] for row in range(len(self.columns[0].values))]

    def to_markdown(self):
        """The header as a paragraph, then a pipe table."""
        lines = [self.titles, ["---"] * len(self.columns), *self.rows]
        table = [
            "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
        ]
        return "\n".join([*(f"{line}  " for line in self.header[:-1]), *self.header[-1:], "", *table]) + "\n"

    def to_csv(self):
        """Header lines behind ``#``; then for every column of numbers its mean, its sd and how many seeds have a value.

        Text is quoted, so that no row begins with ``#``; what is missing is empty. Read it with
        ``csv.reader(line for line in file if not line.startswith('#'))`` or ``pandas.read_csv(path, comment='#')``.
        """
        stream = io.StringIO()
        stream.writelines(f"# {line}\n" for text in self.header for line in text.splitlines())
        writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow([title for column in self.columns for title in column.plain_titles])
        for row in range(len(self.columns[0].values)):
            writer.writerow([value for column in self.columns for value in column.plain(row)])
        return stream.getvalue()

    def to_latex(self):
        """A ``table`` in booktabs style (``\\usepackage{booktabs}``), the header as its caption."""
        body = [" & ".join(map(latex, row)) + r" \\" for row in self.rows]
        shape = "".join("l" if column.digits is None else "r" for column in self.columns)
        return (
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    r"\footnotesize",
                    rf"\caption{{{latex('; '.join(self.header))}}}",
                    rf"\begin{{tabular}}{{{shape}}}",
                    r"\toprule",
                    " & ".join(map(latex, self.titles)) + r" \\",
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
            + "\n"
        )

    def write(self, path):
        """Write to ``path``, whole or not at all, in the format of its suffix: ``.csv``, ``.md`` or ``.tex``.

        Raises
        ------
        LocalplastError
            Another suffix.
        """
        atomic_write(check_table_path(path), FORMATS[Path(path).suffix](self).encode())


FORMATS = {".csv": Table.to_csv, ".md": Table.to_markdown, ".tex": Table.to_latex}


def check_table_path(path):
    """``path``, if a table can be written there."""
    if Path(path).suffix not in FORMATS:
        raise LocalplastError(
            f"a table is written as {', '.join(FORMATS)}; the suffix of {str(path)!r} is none of these"
        )
    return Path(path)
