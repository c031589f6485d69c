"""`scale serve`: right answers, honest refusals, nothing that writes and nothing outside."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from importlib.resources import files
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from flows.serve.guard import check_exposure
from flows.serve.limits import Limits
from flows.serve.media import parse_range
from flows.serve.stores import open_stores
from pipeline import FeatureStore
from pipeline.errors import ConflictError, CredentialsError, InvalidInputError, NotFoundError
from pipeline.store.withdrawal import commit_removal
from tests.flows.serve_world import VIEWS, ServedJob, dataset, listening
from tests.support.videos import numbered_frames, write_video

HTMX_SHA256 = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"
"""Of htmx 2.0.11 as published."""


@pytest.fixture(scope="module")
def client(served: ServedJob) -> TestClient:
    with TestClient(served.app(), base_url="http://localhost") as made:
        yield made


def parts_of(made: dict) -> list[dict]:
    """Everything that something is made of, itself included."""
    return [made, *(part for one in made["made_of"] for part in parts_of(one))]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_answers_and_names_its_moment(client, served, view):
    answer = client.get(f"/s/set{view}")
    assert answer.status_code == 200, answer.text
    assert dataset(served).snapshot()[:12] in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "<script>" not in answer.text
    assert "style=" not in answer.text


def test_the_front_page_leads_to_every_dataset(client):
    assert 'href="/s/set"' in client.get("/").text


def test_conditions_facets_and_pages_choose_the_same_rows_as_select(client, served):
    ds = dataset(served)
    found = client.get("/api/v1/s/set/videos", params={"where": "label = 'a' AND duration_s > 0.7"}).json()
    expected = ds.select("label = 'a' AND duration_s > 0.7")
    assert [v["row"] for v in found["videos"]] == expected.rows.tolist()
    assert found["total"] == len(expected)
    assert found["snapshot"] == ds.snapshot()
    page = client.get("/s/set/videos", params={"label": "b", "split": "1 = test", "status": "ok"}).text
    rows = ds.select("label = 'b' AND splits['1'] = 'test'").rows
    assert all(f'/s/set/video/{row}"' in page for row in rows)
    assert f"{len(rows)} videos" in page
    assert "expected" in client.get("/s/set/videos", params={"where": "nonsense ("}).text
    lines = client.get("/s/set/videos.csv", params={"rows": "0,3,999,x"}).text.splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "3"]


def test_values_come_as_npz_and_arrow_and_are_the_stored_ones(client, served):
    block = dataset(served).select(rows=[1, 4]).features("grid", "tiny")
    answer = client.get("/api/v1/s/set/features/grid/tiny", params={"rows": "1,4"})
    with np.load(io.BytesIO(answer.content), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["values"], block.values)
        np.testing.assert_array_equal(arrays["geometry"], block.geometry)
    arrow = client.get("/api/v1/s/set/features/grid/tiny", params={"rows": "1,4", "format": "arrow"})
    table = pa.ipc.open_stream(arrow.content).read_all()
    np.testing.assert_array_equal(np.array(table["values"].to_pylist(), np.float32), block.values.reshape(2, -1))
    embedded = client.get("/api/v1/s/set/embeddings/scale", params={"where": "row = 2"})
    with np.load(io.BytesIO(embedded.content), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["values"], dataset(served).select(rows=[2]).embeddings("scale").values)


def test_one_video_is_told_whole(client, served):
    found = client.get("/api/v1/s/set/videos/3").json()
    assert found["video"]["video_id"] == dataset(served).videos["video_id"][3].as_py()
    assert {s["set"] for s in found["statuses"]} == {"grid/tiny", "train4/tiny"}
    assert len(found["crops"]["train4"]) == 4
    assert client.get("/api/v1/s/set/row", params={"video_id": found["video"]["video_id"]}).json()["row"] == 3
    assert client.get("/api/v1/s/set/videos/999").status_code == 404


def test_searches_agree_with_the_index(client, served):
    from probe.index.search import search_stored

    store, video_id = FeatureStore.open(str(served.job.store)), dataset(served).videos["video_id"][1].as_py()
    hits = client.get("/api/v1/s/set/search", params={"video_id": video_id, "k": 3}).json()["hits"]
    near = search_stored(store, "set", "default", [video_id], 3)
    assert [h["row"] for h in hits] == near.rows[0].tolist()
    some = client.get("/api/v1/s/set/search", params={"video_id": video_id, "k": 3, "where": "label = 'b'"}).json()
    assert {h["label"] for h in some["hits"]} == {"b"}
    page = client.get("/s/set/search", params={"video_id": video_id, "where": "label = 'b'"}).text
    found = page.split('<div id="hits"')[1].split("</ul>")[0].replace(video_id, "")
    assert "b/" in found
    assert "a/" not in found
    answer = client.post("/api/v1/s/set/search/vector", content=json.dumps([float("nan")] * 4))
    assert answer.status_code == 400
    assert "expected" in answer.json()["error"]["message"]


def test_a_sent_video_is_found_again(client, served):
    ds = dataset(served)
    record = ds.videos.slice(1, 1).to_pylist()[0]
    data = (served.job.data / record["video_id"]).read_bytes()
    answer = client.post("/api/v1/s/set/search/video", params={"name": "../../x.mp4", "k": 2}, content=data)
    assert answer.status_code == 200, answer.text
    assert answer.json()["hits"][0]["video_id"] == record["video_id"]
    refused = client.post("/s/set/search/upload", params={"name": "x.mp4"}, content=b"no video")
    assert "not found" in refused.text


def test_a_number_leads_to_all_that_it_is_made_of(client, served):
    page = client.get("/s/set/reports").text
    (result, *_) = client.get("/api/v1/s/set/reports").json()["reports"][0]["results"]
    address = "/s/set/lineage?" + urlencode({"of": f"reports/tiny#{result['id']}"})
    assert address.replace("&", "&amp;") in page
    shown = client.get(address).text
    assert dataset(served).snapshot("grid", "tiny") in shown
    made = client.get("/api/v1" + address).json()
    assert made["top1"] == result["top1"]
    leaves = [made]
    while leaves[0]["made_of"]:
        leaves = [part for one in leaves for part in one["made_of"]]
    assert {leaf["what"] for leaf in leaves} == {"videos set"}
    (used,) = {one["weights"] for one in parts_of(made) if one["what"].startswith("features")}
    assert used == dataset(served).feature_info("grid", "tiny").fingerprint["backbone"]["weights"]["sha256"]
    for wrong in ("reports/none", "reports/tiny#99", "nothing", "../x"):
        assert client.get("/s/set/lineage", params={"of": wrong}).status_code in (400, 404)
    assert "runs" in client.get("/s/set").text


def test_failures_are_told_with_their_command(client):
    text = client.get("/s/set/failures").text
    assert "broken.mp4" in text
    assert "scale retry" in text


def test_frames_and_videos_come_from_below_the_data_folder_alone(client, served, tmp_path):
    picture = client.get("/s/set/thumbnail/1.jpg")
    assert picture.content.startswith(b"\xff\xd8\xff")
    again = client.get("/s/set/thumbnail/1.jpg", headers={"if-none-match": picture.headers["etag"]})
    assert again.status_code == 304
    whole = (served.job.data / dataset(served).videos["video_id"][1].as_py()).read_bytes()
    part = client.get("/s/set/media/1", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert client.get("/s/set/media/1", headers={"range": f"bytes={len(whole)}-"}).status_code == 416
    elsewhere = served.settings.model_copy(update={"data": tmp_path})  # the catalogue's addresses lie outside of it
    with TestClient(ServedJob(served.job, elsewhere).app(), base_url="http://localhost") as other:
        assert other.get("/s/set/thumbnail/1.jpg").status_code == 404
        assert other.get("/s/set/media/1").status_code == 404
        assert "elsewhere" in other.get("/s/set/video/1").text


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/s/-/raw/../../etc/passwd", 404), ("/s/-/raw/%2e%2e/%2e%2e/etc/passwd", 400), ("/s/-/raw//etc/passwd", 400),
        ("/s/-/raw/set%00", 400), ("/s/-/raw/nothing", 404), ("/s/-/keys?prefix=..", 400), ("/nix/set", 404),
        ("/s/nix/videos", 404), ("/s/set/videos?page=-1", 400), ("/s/set/video/x", 400),
        ("/-/static/..%2fapp.py", 404), ("/-/static/serve.css", 404), ("/s/set/map?source=%3Cscript%3E", 200),
        ("/api/v1/s/-/sql?query=COPY%20x%20TO%20'y'", 400),
        ("/api/v1/s/-/sql?query=SELECT%20*%20FROM%20'/etc/passwd'", 400),
        ("/api/v1/s/set/videos?limit=99999999", 400), ("/api/v1/s/set/videos?columns=nope", 400),
    ],
)  # fmt: skip
def test_hostile_addresses_are_refused_in_words(client, address, status):
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text
    assert "root:" not in answer.text
    assert "<script>" not in answer.text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_there_is_no_verb_that_writes(client, method):
    assert client.request(method, "/s/-/raw/zarr.json").status_code == 405


def test_names_and_labels_of_an_attacker_stay_text(served, tmp_path):
    poison = "<img src=x onerror=alert(1)>"
    store = FeatureStore.create(str(tmp_path / "poisoned"))
    store.create_dataset("d").append_videos(
        pa.table({"video_id": ["\x1b]52;c;x\x07" + poison], "label": [poison], "uri": ["file:///etc/passwd"]})
    )
    app = served.over(tmp_path / "poisoned").app()
    with TestClient(app, base_url="http://localhost") as client:
        for view in ("/videos", "/video/0", "", "/failures", "/map", "/search?video_id=" + poison):
            assert "<img src=x" not in client.get(f"/s/d{view}").text
        assert client.get("/s/d/media/0").status_code == 404


def test_a_token_guards_everything_and_leaves_the_address(served):
    token = "a-token-of-some-length"
    with TestClient(served.app(token=token, hosts=()), base_url="http://far.example") as client:
        assert client.get("/s/set").status_code == 401
        assert client.get("/healthz").status_code == 200
        assert client.get("/s/set", headers={"authorization": f"Bearer {token}"}).status_code == 200
        assert client.get("/s/set", headers={"authorization": "Bearer wrong"}).status_code == 401
        moved = client.get(f"http://far.example//evil.example/x?token={token}&page=1", follow_redirects=False)
        assert moved.headers["location"] == "/evil.example/x?page=1"
        moved = client.get(f"/s/set/videos?token={token}&label=a", follow_redirects=False)
        assert moved.headers["location"] == "/s/set/videos?label=a"
        assert "HttpOnly" in moved.headers["set-cookie"]
        assert client.get("/s/set").status_code == 200  # by the cookie


def test_other_hosts_and_other_sites_are_refused(client):
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 421
    answer = client.post("/s/set/search/upload", content=b"x", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403


@pytest.mark.parametrize(("host", "token"), [("0.0.0.0", None), ("192.168.1.5", None), ("127.0.0.1", "short")])
def test_beyond_this_machine_a_token_is_needed(host, token):
    with pytest.raises(InvalidInputError, match="token"):
        check_exposure(host, token)


def test_answers_are_bounded(served):
    limits = Limits(max_rows=2, max_answer_bytes=100, max_upload_bytes=10)
    with TestClient(served.app(limits=limits), base_url="http://localhost") as client:
        assert client.get("/api/v1/s/set/videos?limit=3").status_code == 400
        assert client.get("/api/v1/s/set/features/grid/tiny").status_code == 400
        assert client.post("/api/v1/s/set/search/video", content=b"x" * 11).status_code == 400
        assert client.get("/api/v1/s/-/sql", params={"query": "SELECT row FROM set.videos"}).status_code == 400


def test_a_query_without_end_is_ended(served):
    with TestClient(served.app(limits=Limits(query_s=0.3)), base_url="http://localhost") as client:
        endless = "SELECT count(*) FROM range(100000000) a, range(100000) b WHERE hash(a.range + b.range) % 7 = 1"
        answer = client.get("/api/v1/s/-/sql", params={"query": endless})
        assert answer.status_code == 400
        assert "at most 0.3 s" in answer.json()["error"]["message"]
        where = "(SELECT count(*) FROM range(100000000) a, range(100000) b WHERE hash(a.range + b.range) % 7 = 1) > 1"
        assert client.get("/api/v1/s/set/videos", params={"where": where}).status_code == 400
        assert client.get("/api/v1/s/set/videos", params={"where": "row = 1"}).status_code == 200


def test_a_store_is_read_over_http_with_the_same_checks(served, monkeypatch):
    token = "a-token-of-some-length"
    with listening(served.app(token=token)) as url:
        with pytest.raises(CredentialsError):
            FeatureStore.open(f"{url}/s").datasets()
        monkeypatch.setenv("SCALE_SERVE_TOKEN", token)
        far, near = FeatureStore.open(f"{url}/s").dataset("set"), dataset(served)
        assert far.snapshot() == near.snapshot()
        ours, theirs = (ds.select("row >= 2").features("train4", "tiny") for ds in (near, far))
        np.testing.assert_array_equal(ours.values, theirs.values)
        np.testing.assert_array_equal(ours.geometry, theirs.geometry)
        backend = pickle.loads(pickle.dumps(far.backend))
        assert backend.read("zarr.json") == (served.job.store / "zarr.json").read_bytes()
        assert backend.read_range("zarr.json", -5, 5) == (served.job.store / "zarr.json").read_bytes()[-5:]
        assert not backend.exists("nothing")
        with pytest.raises(NotFoundError):
            backend.read("nothing")
        with pytest.raises(ConflictError):
            backend.put("x", b"")


def test_new_videos_show_themselves(served, tmp_path):
    store = FeatureStore.create(str(tmp_path / "grows"))
    store.create_dataset("set").append_videos(pa.table({"video_id": ["a.mp4"]}))
    grown = served.over(tmp_path / "grows")
    with TestClient(grown.app(), base_url="http://localhost") as client:
        first = client.get("/api/v1/s/set/videos").json()
        store.dataset("set").append_videos(pa.table({"video_id": ["b.mp4"]}))
        from tests.support.services import wait_until

        later = wait_until(
            lambda: (found := client.get("/api/v1/s/set/videos").json())["total"] == 2 and found,
            timeout_s=20, what="the second video",
        )  # fmt: skip
    assert first["snapshot"] != later["snapshot"]


def test_a_removed_video_is_in_no_view(served, tmp_path):
    store = FeatureStore.create(str(tmp_path / "st"))
    store.create_dataset("set").append_videos(pa.table({"video_id": ["a.mp4", "b.mp4"], "label": ["x", "gone-label"]}))
    commit_removal(store.backend, "set", np.array([1]), erase=False)
    with TestClient(served.over(tmp_path / "st").app(), base_url="http://localhost") as client:
        found = client.get("/api/v1/s/set/videos").json()
        assert [v["video_id"] for v in found["videos"]] == ["a.mp4"]
        for view in ("", "/videos", "/map", "/failures"):
            text = client.get(f"/s/set{view}").text
            assert "b.mp4" not in text
            assert "gone-label" not in text
            assert "removed-" not in text
        assert client.get("/s/set/video/1").status_code == 404
        assert client.get("/s/set/thumbnail/1.jpg").status_code == 404


def test_metrics_count_routes_not_addresses(client):
    client.get("/s/set/video/1")
    text = client.get("/metrics").text
    assert 'route="/{store}/{dataset}/video/{row}",status="200"' in text
    assert "/s/set/video/1" not in text


def test_the_api_describes_itself(client):
    paths = client.get("/api/v1/openapi.json").json()["paths"]
    assert "/api/v1/{store}/{dataset}/videos" in paths
    assert all(set(verbs) <= {"get", "post"} for verbs in paths.values())
    page = client.get("/api").text
    assert all(path in page for path in paths)


def test_stores_of_one_name_need_another(served):
    with pytest.raises(InvalidInputError, match="NAME=ADDRESS"):
        open_stores([str(served.job.store), str(served.job.store)])
    with pytest.raises(InvalidInputError, match="another name"):
        open_stores([f"api={served.job.store}"])
    assert list(open_stores([str(served.job.store), f"second={served.job.store}"])) == ["store", "second"]


def test_the_vendored_script_is_the_published_one():
    data = (files("flows.serve") / "static" / "htmx-2.0.11.min.js").read_bytes()
    assert hashlib.sha256(data).hexdigest() == HTMX_SHA256
    assert "Zero-Clause BSD" in (files("flows.serve") / "static" / "htmx-LICENSE.txt").read_text()


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, None), ("bytes=0-3", (0, 4)), ("bytes=5-", (5, 10)), ("bytes=-3", (7, 10)), ("bytes=0-99", (0, 10)),
     ("lines=1-2", None), ("bytes=a-b", None), ("bytes=1-2,4-5", None)],
)  # fmt: skip
def test_byte_ranges(header, expected):
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=5-4", "bytes=-0"])
def test_byte_ranges_outside(header):
    with pytest.raises(ValueError, match="bytes"):
        parse_range(header, 10)


def test_a_video_that_was_replaced_is_not_shown(served, tmp_path):
    video = write_video(tmp_path / "v.mp4", numbered_frames(5))
    store = FeatureStore.create(str(tmp_path / "st"))
    store.create_dataset("set").append_videos(
        pa.table({"video_id": ["v.mp4"], "uri": [video.as_uri()], "bytes": [video.stat().st_size + 1]})
    )
    settings = served.settings.model_copy(update={"data": tmp_path})
    replaced = ServedJob(served.over(tmp_path / "st").job, settings)
    with TestClient(replaced.app(), base_url="http://localhost") as client:
        assert "another file" in client.get("/s/set/thumbnail/0.jpg").json()["error"]["message"]
