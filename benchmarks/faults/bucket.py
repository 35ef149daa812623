"""A cache in a bucket: an S3 server behind a proxy that errs, stalls and cuts; kills, damage and rivals there too."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from random import Random

from benchmarks.faults import judge, kills, twice
from benchmarks.faults.damage import Findings, most_computed, some_file
from benchmarks.faults.proxy import AT_ONCE, CLIENT_TIMEOUT, LASTING, PASSING, Proxy
from benchmarks.faults.references import DAMAGED, LENT_OF_DAMAGED, References
from benchmarks.faults.stage import SECRET, SHARDS, Call
from benchmarks.faults.starting import Ended
from benchmarks.faults.tally import RESUMED, Fault
from benchmarks.faults.work import Work, chain, ended_badly

BUCKET = "campaign"
MANY = 8
"""Passing errors in one run."""
SOME_REQUESTS = 200
"""Fewer than any run makes; the quick campaign does not count them."""


def why_no_server() -> str:
    """Why no S3 server can be had here; empty where it can."""
    missing = [name for name in ("moto", "boto3", "flask") if find_spec(name) is None]
    return f"no package {', '.join(missing)} (pip install 'moto[server]')" if missing else ""


class Server:
    """A real S3 server on loopback, moto's, and the campaign's own way past the product to what lies there."""

    def __init__(self) -> None:
        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._moto.start()
        host, port = self._moto.get_host_and_port()
        self.url = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "id", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=self.url, **keys)
        self.client.create_bucket(Bucket=BUCKET)
        self._lock = threading.RLock()

    def end(self) -> None:
        """Ends the server."""
        self._moto.stop()

    def environment(self, url: str = "", timeout: str = CLIENT_TIMEOUT) -> dict[str, str]:
        """Variables that lead a command to this server, or to the proxy at `url`."""
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_TIMEOUT": timeout,
        }

    @contextmanager
    def reached(self, url: str = "") -> Iterator[None]:
        """Leads this process to the server for the block."""
        with self._lock:
            os.environ.update(self.environment(url))
            try:
                yield
            finally:
                for name in self.environment():
                    os.environ.pop(name, None)

    def here(self, references: References, arguments: list[str], url: str = "") -> Ended:
        """A command inside this process."""
        with self.reached(url):
            return references.stage.here(arguments)

    def files(self, place: str) -> dict[str, bytes]:
        """Name → content of every object under a URL."""
        prefix = place.removeprefix(f"s3://{BUCKET}/") + "/"
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        bodies = ((key, self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()) for key in keys)
        return {key.removeprefix(prefix): body for key, body in bodies}

    def put(self, place: str, name: str, content: bytes | None) -> None:
        """Puts an object past the product, or removes it."""
        key = f"{place.removeprefix(f's3://{BUCKET}/')}/{name}"
        if content is None:
            self.client.delete_object(Bucket=BUCKET, Key=key)
        else:
            self.client.put_object(Bucket=BUCKET, Key=key, Body=content)


@dataclass
class BucketWork(Work):
    """A cache in a bucket, whose requests go through proxies that note every record."""

    server: Server | None = None
    noted: tuple[list[str], ...] = ()

    def proxy(self, behave: Callable[[int], str] = lambda number: "") -> Proxy:
        """A proxy for one run; the records that it lets through count as this work's."""
        proxy = Proxy(self._server.url, behave)
        self.noted = (*self.noted, proxy.records)
        return proxy

    def look(self) -> None:
        """Reads what stands at `out`, straight from the server."""
        with self._server.reached():
            super().look()

    def intact(self) -> set[str]:
        """Records, as the proxy names them, whose shards lie there as recorded."""
        cache, unfinished = self._server.files(self.call.out), f"{self.call.out}.unfinished"
        return {
            f"/{BUCKET}/{unfinished.removeprefix(f's3://{BUCKET}/')}/{name}"
            for name, content in self._server.files(unfinished).items()
            if "/records/" in name and judge.is_intact(content, cache)
        }

    def records(self) -> list[str]:
        """Every record that the server took, run after run."""
        return [record for run in self.noted for record in run]

    def differences(self) -> list[str]:
        """Objects of the finished cache that are not the reference's."""
        return judge.differences(self._server.files(self.call.out), self.allowed[0].files)

    @property
    def _server(self) -> Server:
        assert self.server is not None
        return self.server


class Bucket:
    """The kinds of faults of a remote cache; without `patience`, those alone that need no waiting."""

    def __init__(self, references: References, server: Server | None, patience: bool) -> None:
        self.references, self._maybe = references, server
        self._passing = PASSING if patience else PASSING[:-1]
        self._lasting = LASTING if patience else LASTING[:AT_ONCE]
        self._lock = threading.Lock()
        self._requests = 0

    def passing(self, random: Random, count: int) -> list[Fault]:
        """Errors that pass: some requests of one run fail, stall or are cut; the run goes on."""
        work = self._work("S3 server that errs, passing", random)
        number = min(count, MANY)
        met = {moment: random.choice(self._passing) for moment in random.sample(range(1, self._moments()), number)}
        proxy = work.proxy(lambda number: met.get(number, ""))
        ended = self._run(work, proxy)
        for moment, what in sorted(met.items()):
            work.hit(f"request {moment} {what}", ended)
        return work.judged(self._clean(work.call)) if ended.code else work.judged(ended, rerun=False)

    def lasting(self, random: Random, count: int) -> list[Fault]:
        """Errors that stay until the run has ended."""
        work = self._work("S3 server that errs, lasting", random)

        def faulty(work: Work) -> Ended | None:
            assert isinstance(work, BucketWork)
            moment, what = self._some_moment(work, random), random.choice(self._lasting)
            proxy = work.proxy(lambda number: what if number >= moment else "")
            ended = self._run(work, proxy)
            if proxy.injected:
                work.hit(f"{what} from request {moment} on", ended)
            elif ended.code:
                work.broken = ended_badly(ended)
            return ended

        return chain(work, faulty, self._clean, count)

    def killed(self, random: Random, count: int) -> list[Fault]:
        """The extractor is killed at a random request."""
        work = self._work("kill -9 of the extractor, cache on S3", random)

        def faulty(work: Work) -> Ended:
            assert isinstance(work, BucketWork)
            moment = self._some_moment(work, random)
            return kills.noted(work, f"at request {moment}", self._run(work, work.proxy(_at([moment], "kills"))))

        return chain(work, faulty, self._clean, count)

    def twice(self, random: Random, count: int) -> list[Fault]:
        """A second extractor while the first one's request is held."""
        faults: list[Fault] = []
        for _ in range(count):
            work = self._work(twice.KIND, random)
            moment = random.randint(2, self._moments())
            proxy = work.proxy(_at([moment], "holds"))
            environment = self.server.environment(proxy.url, timeout="280s")
            first = self.references.stage.start(work.call, environment=environment)
            while first.process.poll() is None and not proxy.held.wait(0.05):
                pass
            second, mark = self._run(work, work.proxy()), work.mark()
            proxy.free.set()
            work.hit(f"on S3, first held at request {moment}", second, mark=mark)
            twice.names(work, second, first.process.pid)
            ended = first.wait()
            if ended.code != 0:
                work.broken = f"the first was disturbed: {ended_badly(ended)}"
            faults += work.judged(self._clean(work.call))
        return faults

    def flipped(self, random: Random, count: int) -> list[Fault]:
        """One bit of any object of a finished cache."""
        return [self._flipped(random) for _ in range(count)]

    def read(self, random: Random, count: int) -> list[Fault]:
        """A reader of a finished cache meets errors: it must get an error of ours or the right values."""
        faults = []
        for _ in range(count):
            call, reference = self.finished(random)
            what = random.choice(self._passing)
            moments = sorted(random.sample(range(1, 60), 3))
            proxy = Proxy(self.server.url, _at(moments, what))
            findings = Findings(self.server.files)
            with self.server.reached(proxy.url):
                findings.read(call.out, reference)
            verdict = findings.verdict("survived")
            faults.append(Fault("S3 server that errs, while read", f"{what} at requests {moments}", *verdict))
        return faults

    @property
    def server(self) -> Server:
        """The server; only where there is one."""
        assert self._maybe is not None
        return self._maybe

    def _flipped(self, random: Random) -> Fault:
        call, reference = self.finished(random)
        name = some_file(random, reference.files)
        content = bytearray(reference.files[name])
        place, bit = random.randrange(len(content)), random.randrange(8)
        content[place] ^= 1 << bit
        self.server.put(call.out, name, bytes(content))
        findings = Findings(self.server.files)
        with self.server.reached():
            findings.verified(self.references.stage, call.out, name)
            findings.read(call.out, reference)
            findings.restored(self.references.stage, call, most_computed(name, call.variant), reference)
        what = f"on S3, {call.variant}, {name} flipped at byte {place}, bit {bit}"
        return Fault("flipped bit, finished cache", what, *findings.verdict(RESUMED))

    def finished(self, random: Random) -> tuple[Call, judge.Reference]:
        """A finished cache in the bucket."""
        variant = self.references.stage.some_variant(random)
        folder, reference = self.references.stage.folder(), self.references.reference(variant)
        call = self.references.stage.call(folder, variant, out=f"s3://{BUCKET}/{folder.name}/cache.zarr")
        for name, content in reference.files.items():
            self.server.put(call.out, name, content)
        return call, reference

    def _work(self, kind: str, random: Random) -> BucketWork:
        variant, folder = self.references.stage.some_variant(random), self.references.stage.folder()
        call = self.references.stage.call(folder, variant, out=f"s3://{BUCKET}/{folder.name}/cache.zarr")
        reference = self.references.reference(variant)
        work = BucketWork(kind, call, (reference,), server=self.server)
        if random.random() < 0.3:  # to be mended
            for name, content in {**reference.files, **dict.fromkeys(DAMAGED, b"damaged")}.items():
                self.server.put(call.out, name, content)
            work.lent = LENT_OF_DAMAGED
        return work

    def _run(self, work: BucketWork, proxy: Proxy) -> Ended:
        running = self.references.stage.start(work.call, environment=self.server.environment(proxy.url))
        proxy.victim = running.process.pid
        return running.wait()

    def _clean(self, call: Call) -> Ended:
        return self.server.here(self.references, call.arguments())

    def _some_moment(self, work: BucketWork, random: Random) -> int:
        return random.randint(1, int(self._moments() * (1 - len(work.intact()) / (2 * SHARDS))))

    def _moments(self) -> int:
        """Requests of one undisturbed run, about."""
        with self._lock:
            if not self._requests and self.references.stage.quick:
                self._requests = SOME_REQUESTS
            elif not self._requests:
                work = self._work("", Random(0))
                proxy = work.proxy()
                ended = self.server.here(self.references, work.call.arguments(), proxy.url)
                assert ended.code == 0, ended.said
                self._requests = next(proxy.numbers)
        return self._requests


def _at(moments: list[int], what: str) -> Callable[[int], str]:
    return lambda number: what if number in moments else ""
