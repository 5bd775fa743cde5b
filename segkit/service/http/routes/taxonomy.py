"""The routes of the taxonomy of a run: the sheet in which a person edits it, and what edits would change."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from segkit.errors import TaxonomyError
from segkit.service.http import schemas
from segkit.service.http.dependencies import JsonRoute, TheService, TheSpools, TheStatus, TheToken
from segkit.service.http.problems import responses
from segkit.service.http.results import check_of_taxonomy, taxonomy_file
from segkit.service.http.routes.results import CSV, FILE, OF_RESULTS, Encodings, download, require_ended
from segkit.service.http.spools import Spools
from segkit.service.service import Service
from segkit.service.starts.admission import capped
from segkit.service.starts.submissions import unusable_taxonomy
from segkit.service.status import CachedStatus
from segkit.service.tokens import Token

router = APIRouter(prefix="/api/segmentation/{run_id}", route_class=JsonRoute)


@router.get("/taxonomy", operation_id="taxonomy", responses=OF_RESULTS, response_model=schemas.TaxonomySheet)
async def taxonomy(
    current: TheStatus, service: TheService, token: TheToken, spools: TheSpools, encodings: Encodings = ""
) -> Response:
    """Return the categories of a run with their keys, sizes and examples, as `segkit taxonomy export` writes them."""
    return await _sheet(current, service, token, spools, "json", encodings)


@router.get("/taxonomy.csv", operation_id="taxonomy_csv", responses=OF_RESULTS | CSV, response_class=Response)
async def taxonomy_csv(
    current: TheStatus, service: TheService, token: TheToken, spools: TheSpools, encodings: Encodings = ""
) -> Response:
    """Return the same as CSV, which Excel opens as it is."""
    return await _sheet(current, service, token, spools, "csv", encodings)


@router.get("/taxonomy.xlsx", operation_id="taxonomy_xlsx", responses=OF_RESULTS | FILE, response_class=Response)
async def taxonomy_xlsx(current: TheStatus, service: TheService, token: TheToken, spools: TheSpools) -> Response:
    """Return the same as an Excel file, which offers the actions."""
    return await _sheet(current, service, token, spools, "xlsx", "")


async def _sheet(
    current: CachedStatus, service: Service, token: Token, spools: Spools, form: str, encodings: str
) -> Response:
    require_ended(current)
    make = partial(taxonomy_file, service.workers, service.runs_dir, current, form)
    pieces = spools.pieces((current.run_id, f"taxonomy.{form}", current.state), make)
    file = "" if form == "json" else f"{current.run_id}_taxonomy.{form}"
    return await download(pieces, token, encodings, file, form)


@router.post(
    "/taxonomy/check",
    operation_id="check_taxonomy",
    responses=OF_RESULTS | responses(400, 408, 413, 415, 422),
    response_model=schemas.TaxonomyCheck,
)
async def check_taxonomy(body: schemas.TaxonomySheet, current: TheStatus, service: TheService) -> Response:
    """Report what edits change and what a run that applies them costs, as `segkit taxonomy check` does."""
    require_ended(current)
    given = (service.runs_dir, current.run_id, body.document, capped(service.settings))
    check = partial(service.workers.call, check_of_taxonomy, *given, products=current.products)
    try:
        return JSONResponse(await asyncio.to_thread(check))
    except TaxonomyError as error:
        raise unusable_taxonomy(error, "#") from None
