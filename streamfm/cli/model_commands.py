"""`streamfm models`: the registry's versions and aliases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from streamfm.cli.console import console, output, print_table
from streamfm.errors import RegistryError

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
