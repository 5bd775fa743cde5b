"""What a back end needs beside start, status and results, over real HTTP, from one completed run."""

from __future__ import annotations

import gzip
import io
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import httpx
import pandas as pd
import psycopg
import pytest
from catalogues import KEY
from endpoint import Endpoint
from rest_service import Service, fill_products, settled, wish

from segkit.analysis.export import TAXONOMY_WRITERS, exported, exported_taxonomy
from segkit.core.catalogue.ids import number_of
from segkit.core.taxonomy.edits import ACTIONS
from segkit.core.taxonomy.files import read_taxonomy_file
from segkit.evaluation.explain.explanation import explain
from segkit.pipeline.summary import decide_state
from segkit.pipeline.taxonomy.report import assign_report
from segkit.pipeline.taxonomy.stage import assign_products
from segkit.pipeline.taxonomy.start import assign_run
from segkit.runs.run import Run, open_run
from segkit.service.http.schemas import Action, Results

RUNS = "/api/segmentation"


@dataclass
class Completed:
    """A service with one completed run of 40 products, whose further runs wait."""

    service: Service
    run: Run
    path: str


@pytest.fixture(scope="module")
def completed(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, shared_endpoint: Endpoint
) -> Iterator[Completed]:
    fill_products(postgres_url, range(1, 101))
    place = tmp_path_factory.mktemp("integration")
    urls = {"DATABASE_URL": postgres_url, "OPENAI_BASE_URL": shared_endpoint.url, "OPENAI_API_KEY": KEY}
    service = Service(place, SEGKIT_SERVE_RUNS="1", SEGKIT_SERVE_QUEUE="50", **urls)
    service.token("ann", max_cost_usd=5.0, max_active=100)
    service.token("ben")
    service.token("all", all_runs=True)
    with service:
        with service.client() as client:
            run_id = client.post(f"{RUNS}/start", json=wish(*range(1, 41))).json()["run_id"]
            assert settled(client, run_id)["status"] == "completed"
        service.stop()
        service.environment["SEGKIT_SERVE_RUNS"] = "0"
        service.start()
        yield Completed(service, open_run(run_id, place / "runs"), f"{RUNS}/{run_id}")


@pytest.fixture
def client(completed: Completed) -> Iterator[httpx.Client]:
    with completed.service.client() as client:
        yield client


def test_results_come_as_csv_and_parquet_too(completed: Completed, client: httpx.Client) -> None:
    """They hold what `segkit export` writes."""
    expected = exported(completed.run)
    csv = client.get(f"{completed.path}/results.csv")
    assert csv.headers["content-type"].startswith("text/csv")
    assert completed.run.id in csv.headers["content-disposition"]
    assert list(pd.read_csv(io.StringIO(csv.text))["category"]) == list(expected["category"])
    parquet = client.get(f"{completed.path}/results.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(parquet.content)), expected)


@pytest.mark.parametrize("name", ["results", "results.csv"])
def test_results_are_compressed_where_the_client_wants_it(
    completed: Completed, client: httpx.Client, name: str
) -> None:
    """With gzip and without it the bytes are the same; a weight of 0 means no."""
    plain = client.get(f"{completed.path}/{name}", headers={"accept-encoding": "identity"})
    with client.stream("GET", f"{completed.path}/{name}", headers={"accept-encoding": "br, gzip;q=0.5"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(b"".join(answer.iter_raw())) == plain.content
    none = client.get(f"{completed.path}/{name}", headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in none.headers


def test_ids_that_are_texts_are_taken_and_come_back(
    completed: Completed, client: httpx.Client, postgres_url: str
) -> None:
    """A queued run has the texts as `source_id`; an integer may be written as a text."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for text in ("SKU-7", "007"):
            row = (number_of(text), f"Lamp {text}")
            connection.execute("INSERT INTO amazon_products (id, title) VALUES (%s, %s) ON CONFLICT DO NOTHING", row)
    answer = client.post(f"{RUNS}/start", json={**wish(1), "product_ids": ["SKU-7", "007", 1]})
    assert answer.status_code == 200, answer.text
    products = open_run(answer.json()["run_id"], completed.run.folder.parent).products
    assert sorted(products["source_id"]) == ["007", "1", "SKU-7"]
    answer = client.post(f"{RUNS}/start", json={**wish(1), "product_ids": ["7", 8]})
    assert open_run(answer.json()["run_id"], completed.run.folder.parent).products["product_id"].tolist() == [7, 8]
    for wrong in (["SKU-8"], ["0"], ["-7"], ["7", 7], ["SKU-7", "SKU-7"], [""]):
        assert client.post(f"{RUNS}/start", json={**wish(1), "product_ids": wrong}).status_code in (404, 422), wrong


def test_the_taxonomy_comes_as_the_command_line_exports_it(completed: Completed, client: httpx.Client) -> None:
    """The same bytes; what is sent back unchanged changes nothing, and the keys are those of the results."""
    sheet = exported_taxonomy(completed.run)
    for form in ("json", "csv", "xlsx"):
        answer = client.get(f"{completed.path}/taxonomy" + ("" if form == "json" else f".{form}"))
        assert answer.status_code == 200, answer.text
        if form != "xlsx":  # which holds the time at which it was made
            assert answer.content == TAXONOMY_WRITERS[form](sheet)
        file = completed.service.place / f"sheet.{form}"
        file.write_bytes(answer.content)
        assert read_taxonomy_file(file).run == completed.run.id
    document = client.get(f"{completed.path}/taxonomy").json()
    found = {row["key"]: row["category_name"] for row in client.get(f"{completed.path}/results").json()["taxonomies"]}
    assert {row["key"]: row["name"] for row in document["categories"] if row["products"]} == found
    check = client.post(f"{completed.path}/taxonomy/check", json=document)
    assert check.status_code == 200, check.text
    assert (check.json()["changes"], check.json()["products_to_ask"], check.json()["calls"]) == ([], 0, 0)
    with completed.service.client("ben") as ben:
        for name in ("taxonomy", "taxonomy.csv", "taxonomy.xlsx"):
            assert ben.get(f"{completed.path}/{name}").status_code == 404
        assert ben.post(f"{completed.path}/taxonomy/check", json=document).status_code == 404


def test_keys_and_ids_of_categories_are_those_of_postgres(
    completed: Completed, client: httpx.Client, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url) as connection:
        sql = "SELECT id, category_key, category_name FROM product_taxonomies WHERE run_id = %s"
        stored = set(connection.execute(sql, (completed.run.id,)).fetchall())
    answer = client.get(f"{completed.path}/results").json()
    assert answer["synced"] is True
    assert {(row["id"], row["key"], row["category_name"]) for row in answer["taxonomies"]} <= stored
    assert {key for _, key, _ in stored} == set(completed.run.result("taxonomies")["key"])


def edits_of(completed: Completed) -> list[dict[str, str]]:
    """Rename the first category, merge the second into it, and delete the third."""
    first, second, third = completed.run.result("taxonomies")["key"][:3]
    return [
        {"key": first, "name": "Other Things"},
        {"key": second, "action": "merge_into", "into": first},
        {"key": third, "action": "delete", "note": "too small"},
    ]


def test_edits_are_checked_and_applied_over_rest(completed: Completed, client: httpx.Client) -> None:
    """What the check announces is what the run does; it keeps the edits, and products may come in too."""
    sizes, taxonomy = completed.run.result("taxonomies")["product_count"], {"categories": edits_of(completed)}
    check = client.post(f"{completed.path}/taxonomy/check", json=taxonomy).json()
    assert (check["renamed"], check["merged"], check["deleted"], check["added"]) == (1, 1, 1, 0)
    assert (check["products_to_ask"], check["calls"], check["cost_usd"]) == (sizes[2], 1, [0, 0])
    assert [change["note"] for change in check["changes"] if change["action"] == "delete"] == ["too small"]
    headers = {"idempotency-key": "edits-1"}
    body = {"taxonomy": taxonomy}
    answer = client.post(f"{completed.path}/assign", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["total_products"] == 40
    again = client.post(f"{completed.path}/assign", json=body, headers=headers)
    assert again.json()["run_id"] == answer.json()["run_id"]
    other = {"taxonomy": {"categories": edits_of(completed)[:2]}}
    assert (
        client.post(f"{completed.path}/assign", json=other, headers=headers).json()["type"] == "/problems/key-reused"
    )
    run = open_run(answer.json()["run_id"], completed.run.folder.parent)
    assert run.archived("edits")["action"].tolist() == ["merge_into", "rename", "delete"]
    assert len(run.new_products) == check["products_to_ask"]
    ordered = [event for event in completed.service.events() if event.get("run_id") == run.id][-1]
    assert ordered["parameters"]["taxonomy"] == 3, "the log counts them"
    both = client.post(f"{completed.path}/assign", json={"taxonomy": taxonomy, "product_ids": [41, "42", 1]})
    assert both.json()["total_products"] == 42


def test_results_hold_what_a_run_proposes(
    completed: Completed, shared_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A category split without parts is proposed again: the proposal and its conflict are those of `--json`."""
    monkeypatch.setenv("OPENAI_BASE_URL", shared_endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    kettles = completed.run.taxonomy().frame.set_index("category_name")["key"]["Kettles"]
    blenders = pd.DataFrame({"product_id": range(5000, 5008), "title": [f"Solid {n} blender" for n in range(8)]})
    run = assign_run(completed.run.taxonomy().split(kettles), blenders)
    assign_products(run)
    assert decide_state(run)["state"] == "completed"
    with completed.service.client("all") as client:
        results = Results.model_validate(client.get(f"{RUNS}/{run.id}/results").json()).model_dump()
    report = assign_report(run)
    assert [each["category_name"] for each in results["proposed"]] == ["Kettles", "Blenders"]
    assert [each["edited_key"] for each in results["conflicts"]] == [kettles]
    assert (results["proposed"], results["conflicts"]) == (report["proposed"], report["conflicts"])
    assert not {each["key"] for each in results["taxonomies"]} & {each["key"] for each in results["proposed"]}


@pytest.mark.parametrize(
    ("rows", "kind", "pointer"),
    [
        ([{"key": "C-99", "action": "delete"}], "unusable-taxonomy", "/categories"),
        ([{"key": "C-1", "action": "merge_into", "into": "C-1"}], "unusable-taxonomy", "/categories"),
        ([{"key": "C-1", "name": "n/a"}, {"name": "misc", "action": "add"}], "unusable-taxonomy", "/categories"),
        ([{"key": "C-1", "action": "explode"}], "invalid-request", "/categories/0/action"),
        ([{"key": "C-1", "size": 3}], "invalid-request", "/categories/0/size"),
        ([{"key": "first"}], "invalid-request", "/categories/0/key"),
        ([{"key": f"C-{i}", "name": "x"} for i in range(1, 1002)], "invalid-request", "/categories"),
    ],
)
def test_edits_that_cannot_be_applied_are_refused_with_their_place(
    completed: Completed, client: httpx.Client, rows: list[dict[str, Any]], kind: str, pointer: str
) -> None:
    """By the check and by the start alike; nothing is made."""
    runs = set(completed.run.folder.parent.iterdir())
    for path, body, where in (
        ("taxonomy/check", {"categories": rows}, f"#{pointer}"),
        ("assign", {"taxonomy": {"categories": rows}}, f"#/taxonomy{pointer}"),
    ):
        answer = client.post(f"{completed.path}/{path}", json=body)
        assert (answer.status_code, answer.json()["type"]) == (422, f"/problems/{kind}"), answer.text
        assert answer.json()["errors"][0]["pointer"] == where
    assert set(completed.run.folder.parent.iterdir()) == runs


def test_a_sheet_of_another_run_or_none_is_refused(completed: Completed, client: httpx.Client) -> None:
    """And a large one is read: it holds more lists and commas than another body may."""
    other = {"run": "RUN_20250618T120301Z_8d24", "categories": edits_of(completed)}
    answer = client.post(f"{completed.path}/taxonomy/check", json=other)
    assert answer.json()["type"] == "/problems/unusable-taxonomy"
    assert client.post(f"{completed.path}/assign", json={}).json()["type"] == "/problems/invalid-request"
    row = {"action": "add", "definition": "a, b, c, d, e, f, g, h, i, j", "examples": ["one, two", "three, four"]}
    large = {"categories": [{**row, "name": f"Things {number}"} for number in range(900)]}
    answer = client.post(f"{completed.path}/taxonomy/check", json=large)
    assert (answer.status_code, answer.json()["added"]) == (200, 900), answer.text
    deep = b'{"categories": ' + b"[" * 960 + b"]" * 960 + b"}"
    answer = client.post(f"{completed.path}/assign", content=deep, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")


def test_the_actions_over_rest_are_those_of_a_sheet() -> None:
    assert set(get_args(Action)) == {"", *ACTIONS}


def test_a_product_is_explained(completed: Completed, client: httpx.Client) -> None:
    """The steps are those of `segkit explain`; a product that the run lacks is 404."""
    response = client.get(f"{completed.path}/products/7")
    assert response.status_code == 200, (response.text, completed.service.events()[-1])
    answer = response.json()
    assert (answer["product_id"], answer["title"]) == (7, "Solid number 7 whisk")
    expected = explain(completed.run, 7)
    assert answer["sentences"] == expected.lines
    assert [step["category"] for step in answer["steps"]] == list(expected.steps["category"])
    assert 0 <= answer["steps"][0]["confidence"] <= 1
    for wrong in ("777", "x", "9" * 30, "%00"):
        refused = client.get(f"{completed.path}/products/{wrong}")
        assert (refused.status_code, refused.json()["type"]) == (404, "/problems/no-such-product")


def test_a_link_opens_the_report_in_a_browser(completed: Completed, client: httpx.Client) -> None:
    """It holds no token, opens this report only, and nothing that was changed opens anything."""
    link = client.post(f"{completed.path}/report-link").json()
    with httpx.Client(trust_env=False) as stranger:
        assert stranger.get(link["url"]).content == (completed.run.folder / "report.html").read_bytes()
        for wrong in (
            link["url"][:-1] + ("0" if link["url"][-1] != "0" else "1"),
            link["url"].replace("expires=", "expires=9"),
            link["url"].replace("by=ann", "by=ben"),
            link["url"].replace("report.html", "results"),
        ):
            assert stranger.get(wrong).status_code == 401
    assert completed.service.secrets["ann"] not in link["url"]
    key = completed.service.place / "home" / "service" / "links.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with completed.service.client("ben") as ben:
        assert ben.post(f"{completed.path}/report-link").status_code == 404


@pytest.mark.parametrize("how", ["extend", "assign"])
def test_a_run_is_built_on_over_rest(completed: Completed, client: httpx.Client, how: str) -> None:
    """More products come in, once a key; the new run has the products of both."""
    headers = {"idempotency-key": f"more-{how}"}
    answer = client.post(f"{completed.path}/{how}", json={"product_ids": [39, 40, 41, 42]}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["total_products"] == 42
    again = client.post(f"{completed.path}/{how}", json={"product_ids": [39, 40, 41, 42]}, headers=headers)
    assert again.json()["run_id"] == answer.json()["run_id"]
    made = open_run(answer.json()["run_id"], completed.service.place / "runs").parameters
    assert (made.extends if how == "extend" else made.taxonomy) == completed.run.id
    wrong = client.post(f"{RUNS}/{answer.json()['run_id']}/{how}", json={"product_ids": [50]})
    assert (wrong.status_code, wrong.json()["type"]) == (409, "/problems/wrong-state")
    lacking = client.post(f"{completed.path}/{how}", json={"product_ids": [999]})
    assert lacking.json()["type"] == "/problems/unknown-products"
    with completed.service.client("ben") as ben:
        assert ben.post(f"{completed.path}/{how}", json={"product_ids": [50]}).status_code == 404


@pytest.mark.long
@pytest.mark.parametrize("how", ["extend", "assign"])
def test_a_run_that_builds_on_another_completes(completed: Completed, client: httpx.Client, how: str) -> None:
    """Its results hold the products of both; a new product is explained."""
    service = completed.service
    run_id = client.post(f"{completed.path}/{how}", json={"product_ids": [61, 62]}).json()["run_id"]
    for other in client.get(f"{RUNS}/runs", params={"state": "running"}).json()["runs"]:
        if other["run_id"] != run_id:
            client.post(f"{RUNS}/{other['run_id']}/cancel")
    service.stop()
    service.environment["SEGKIT_SERVE_RUNS"] = "1"
    service.start()
    with service.client() as again:
        assert settled(again, run_id)["status"] == "completed"
        assert len(again.get(f"{RUNS}/{run_id}/results").json()["segments"]) == 42
        assert again.get(f"{RUNS}/{run_id}/products/62").json()["steps"]
    service.stop()
    service.environment["SEGKIT_SERVE_RUNS"] = "0"
    service.start()


def test_prompts_and_batch_size_are_chosen_in_the_body(completed: Completed, client: httpx.Client) -> None:
    """A prompt set is one of the operator's by name; another one is refused."""
    answer = client.post(f"{RUNS}/start", json=wish(1, 2, 3, prompts="v0", products_per_prompt=2))
    made = open_run(answer.json()["run_id"], completed.service.place / "runs").parameters
    assert (made.prompts, made.products_per_prompt) == ("v0", 2)
    refused = client.post(f"{RUNS}/start", json=wish(1, prompts="nowhere"))
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/unknown-prompts")
    for wrong in ({"prompts": "../v0"}, {"products_per_prompt": 0}, {"products_per_prompt": 1001}):
        assert client.post(f"{RUNS}/start", json=wish(1, 2, **wrong)).status_code == 422


def test_a_sample_is_chosen_in_the_body(completed: Completed, client: httpx.Client) -> None:
    answer = client.post(f"{RUNS}/start", json=wish(1, 2, 3, extract_sample="auto", most_unseen=0.05))
    made = open_run(answer.json()["run_id"], completed.service.place / "runs").parameters
    assert (made.extract_sample, made.most_unseen) == ("auto", 0.05)
    for wrong in ({"extract_sample": 0}, {"extract_sample": "some"}, {"most_unseen": 2}):
        assert client.post(f"{RUNS}/start", json=wish(1, 2, **wrong)).status_code == 422


def test_a_run_says_what_is_left_of_its_budget(completed: Completed, client: httpx.Client) -> None:
    """A run that has asked nothing has all of it; one of the offline model has none."""
    run_id = client.post(f"{RUNS}/start", json=wish(1, 2, model="gpt-4o", max_cost_usd=0.5)).json()["run_id"]
    status = client.get(f"{RUNS}/{run_id}/status").json()
    assert (status["cost_usd"], status["budget_usd"], status["budget_left_usd"]) == (0, 0.5, 0.5)
    assert "cost_usd" not in client.get(f"{completed.path}/status").json()


def test_runs_are_found_by_what_they_were_started_with(completed: Completed, client: httpx.Client) -> None:
    """Category, model, time and state filter the list; a cancelled run is neither running nor failed."""
    own = client.post(f"{RUNS}/start", json=wish(1, 2, category="Rare Things")).json()["run_id"]

    def found(**filters: str) -> list[str]:
        return [run["run_id"] for run in client.get(f"{RUNS}/runs", params=filters).json()["runs"]]

    assert found(category="Rare Things") == [own]
    assert found(category="Rare Things", model="gpt-4o") == []
    assert own in found(created_after="2020-01-01T00:00:00Z", model="offline")
    assert found(created_before="2020-01-01T00:00:00+02:00") == []
    client.post(f"{RUNS}/{own}/cancel")
    assert (own in found(state="cancelled"), own in found(state="failed"), own in found(state="running")) == (
        True,
        False,
        False,
    )
    listed = client.get(f"{RUNS}/runs", params={"category": "Rare Things"}).json()["runs"][0]
    assert (listed["status"], listed["model"], listed["category"]) == ("cancelled", "offline", "Rare Things")
    assert listed["created_at"] > "2020"
    for wrong in ("yesterday", "0.5", "1750000000"):
        assert client.get(f"{RUNS}/runs", params={"created_after": wrong}).status_code == 422, wrong


def test_pages_of_runs_follow_the_order_of_their_starts(completed: Completed, client: httpx.Client) -> None:
    """Page by page the list is the same as in one piece; a resumed run keeps its place."""
    first = client.post(f"{RUNS}/start", json=wish(1)).json()["run_id"]
    last = client.post(f"{RUNS}/start", json=wish(2)).json()["run_id"]
    client.post(f"{RUNS}/{first}/cancel")
    assert client.post(f"{RUNS}/{first}/resume").status_code == 200
    whole = [run["run_id"] for run in client.get(f"{RUNS}/runs", params={"limit": 200}).json()["runs"]]
    assert whole.index(last) < whole.index(first)
    pages: list[str] = []
    before: dict[str, str] = {}
    while True:
        page = client.get(f"{RUNS}/runs", params={"limit": 2, **before}).json()
        pages += [run["run_id"] for run in page["runs"]]
        if not page["next"]:
            break
        before = {"before": page["next"]}
    assert pages == whole
