"""`rdt2 doctor`: what works on this machine, and what mends the rest."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(kw_only=True)
class Doctor:
    """Say what works on this machine, and what mends the rest.

    Looks at Python, packages, GPU, memory, rendering, extras, devices, ports and the hub; changes nothing. Ends with 1
    where something is broken that every command needs, with 0 otherwise.

    For example:
      rdt2 doctor
      rdt2 doctor --offline --json doctor.json
    """

    offline: bool = False
    """Do not ask the hub whether it can be reached."""
    json: Path | None = None
    """Write the findings to this file. - is stdout, alone."""

    def run(self) -> None:
        from rich.table import Table
        from rich.text import Text

        from rdt2.cli.output import console, save_json
        from rdt2.doctor import examine, summary
        from rdt2.progress import working

        with working("looking at this machine"):
            findings = list(examine(hub=not self.offline))
        table = Table(box=None, pad_edge=False)
        for name in ("", "what", "found"):
            table.add_column(name, overflow="fold")
        signs = {"ok": "[green]ok[/]", "optional": "[yellow]--[/]", "broken": "[red]!![/]"}
        for finding in findings:
            table.add_row(signs[finding.state], finding.name, Text(finding.found))
            if finding.mend:
                table.add_row("", "", Text(finding.mend, style="bold"))
        out = console()
        out.print(table)
        broken = [finding.name for finding in findings if finding.state == "broken"]
        save_json(self.json, summary(findings))
        if broken:
            out.print(f"[red]broken:[/] {', '.join(broken)}. Mend these first.")
            sys.exit(1)
        out.print("Everything that every command needs is there. What is marked -- is needed by some only.")
