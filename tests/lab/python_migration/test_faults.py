"""Every call that a cutover makes fails once, in every way that calls fail; the cutover finishes, or stops with a clear error
and finishes when it is run again.

The list of calls is recorded from a run that nothing disturbs. A call that no fault struck fails the suite."""

import re

from journey import JourneyTest, slice_of

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}")
# What happens to the call. `expired` ends the session or token; who has none yet cannot lose it.
FAULTS = {
    "500": {"kind": "http", "status": 500},
    "503": {"kind": "http", "status": 503, "retry_after": 1},
    "429": {"kind": "http", "status": 429, "retry_after": 1},
    "reset": {"kind": "reset"},
    "lost reply": {"kind": "lost-reply"},
    "expired": {"kind": "expire"},
}
SERVICES = {"vsphere": "vcenter", "folder": "vcenter", "identity": "openstack", "volume": "openstack", "compute": "openstack",
            "network": "openstack"}
WITHOUT_SESSION = {"RetrieveServiceContent", "Login", "Logout"}


def shape(call):
    """A call without what differs from run to run: SOAP methods are their name, paths lose ids and queries."""
    if call["service"] == "vsphere":
        return call["service"], call["method"], ""
    path = call["path_or_object"].split("?")[0]
    if call["service"] == "folder":
        return call["service"], call["method"], ""
    return call["service"], call["method"], UUID.sub("ID", path)


def rule_for(service, method, path):
    rule = {"service": service, "method": method}
    if path:
        rule["path_regex"] = "^" + re.escape(path).replace("ID", "[-0-9a-f]{32,36}") + r"(\?|$)"
    return rule


class FaultsTest(JourneyTest):
    services = SERVICES
    least = 30  # calls

    def recorded_calls(self):
        self.begin_anew()
        self.ferry("cutover", *self.cutover_flags())
        calls = set()
        for side in ("vcenter", "openstack"):
            for call in self.lab.control(side, "GET", "/calls"):
                if call["service"] in self.services:
                    calls.add(shape(call))
        return sorted(calls)

    def cases(self, calls):
        for call in calls:
            for name in FAULTS:
                service, method, _ = call
                if name == "expired" and (method in WITHOUT_SESSION or service == "identity"):
                    continue
                yield call, name

    def test_every_call_fails_once_in_every_way(self):
        calls = self.recorded_calls()
        self.assertGreater(len(calls), self.least, calls)
        cases = list(self.cases(calls))
        chosen = slice_of(cases)
        print(f"\nfaults: {len(chosen)} of {len(cases)} ({len(calls)} calls); all of them: ./test --full faults", flush=True)
        stopped = 0
        for number, (call, fault) in enumerate(chosen):
            self.state = self.lab.work / f"faults-{number}"
            self.state.mkdir()
            with self.subTest(call=call, fault=fault):
                stopped += self.one(call, fault)
        print(f"faults: {stopped} of {len(chosen)} stopped the first run, and the second finished it", flush=True)

    def one(self, call, fault):
        self.begin_anew()
        side = self.services[call[0]]
        self.lab.control(side, "POST", "/faults", {**rule_for(*call), **FAULTS[fault]})
        first = self.ferry("cutover", *self.cutover_flags(), ok=False)
        rules = self.lab.control(side, "GET", "/faults")
        self.assertTrue(rules and all(rule["hits"] > 0 for rule in rules), f"the call was never made, or never struck: {rules}")
        if first.code != 0:
            # One sentence that says what failed, never a crash or a bug.
            self.assertIn(first.code, range(2, 13), str(first))
            self.assertRegex(first.err, r"(?m)^error: .{20,}", str(first))
            self.ferry("cutover", *self.cutover_flags())
        self.assert_arrived()
        return first.code != 0


class ImageFaultsTest(FaultsTest):
    """By way of images: the calls to Glance, and those that make volumes of them."""

    services = {"image": "openstack", "volume": "openstack"}
    least = 10

    def command(self, verb, *flags, target="openstack", path=None):
        arguments = super().command(verb, *flags, path=path)
        images = self.state / "images"
        images.mkdir(exist_ok=True)
        return arguments + ["--target", f"image:{images}"]

    def begin_anew(self):
        super().begin_anew()
        for image in self.lab.control("openstack", "GET", "/state")["images"]:
            if image["name"] != "conversion-host-image":
                self.cloud.image.delete_image(image["id"])

    def assert_arrived(self, converted=True):
        super().assert_arrived(converted)
        images = self.lab.control("openstack", "GET", "/state")["images"]
        self.assertEqual([i["name"] for i in images], ["conversion-host-image"], "an image was left behind")
