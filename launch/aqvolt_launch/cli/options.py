"""Options that several commands share: one name, one help text, one meaning."""

from __future__ import annotations

from typing import Annotated

import typer

#: For commands that need the parameters of a campaign.
CampaignOption = Annotated[
    str | None,
    typer.Option("--campaign", help="Campaign file or shipped name; default: aqvolt.yaml's.", show_default=False),
]
#: For commands that only look at the documents of a campaign.
OneCampaign = Annotated[
    str | None,
    typer.Option("--campaign", help="Name or file of a campaign; default: aqvolt.yaml's.", show_default=False),
]
AllCampaigns = Annotated[
    bool, typer.Option("--all-campaigns", help="Look at the documents of all campaigns in the database.")
]
Labeler = Annotated[
    str | None,
    typer.Option(
        "--labeler", help="vasp, gpaw, surrogate, or a plug-in's; default: the campaign's.", show_default=False
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", help="Maximum number of units to submit.", show_default=False)]
RerunFailed = Annotated[
    bool, typer.Option("--rerun-failed", help="Rerun failed jobs, except labels whose failure is final.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
