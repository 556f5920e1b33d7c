"""tools/check-includes finds each fault it knows in a small made-up tree; tools/select-tests chooses what ./test
promises. Both are run as programs; nothing is built."""

import importlib.machinery
import importlib.util
import json
import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

CMAKE = """
vmferry_module(base    LAYER 0 SYSTEM fmt::fmt)
vmferry_module(log     LAYER 1 USES base SYSTEM spdlog::spdlog
                       fmt::fmt)
vmferry_module(http    LAYER 2 USES base log SYSTEM CURL::libcurl)
vmferry_module(vsphere LAYER 3 USES base http SYSTEM pugixml::pugixml)
"""
GOOD = {
    "src/base/error.hpp": "// Errors.\n#pragma once\n#include <tl/expected.hpp>\n#include <string>\n#include <sys/stat.h>\n",
    "src/log/log.cpp": '// Log.\n#include <fmt/format.h>\n#include <spdlog/spdlog.h>\n#include "base/error.hpp"\n',
    "src/http/curl.cpp": "// Transport.\n#include <curl/curl.h>\n#include <unistd.h>\n",
    "src/vsphere/soap.cpp": '// Codec.\n#include <pugixml.hpp>\n#include "base/error.hpp"\n',
    "src/app/main.cpp": '// All together.\n#include "base/error.hpp"\n',
}


class CheckIncludes(unittest.TestCase):
    def check(self, **changed):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {"CMakeLists.txt": CMAKE, **GOOD, **changed}.items():
                path = pathlib.Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            done = subprocess.run([ROOT / "tools" / "check-includes", folder], capture_output=True, text=True)
        return done.returncode, done.stdout

    def refused(self, name, text, words):
        code, out = self.check(**{name: text})
        self.assertEqual(1, code, out)
        self.assertIn(words, out)
        self.assertEqual(1, out.count("\n"), out)
        self.assertTrue(out.startswith(name + ":"), out)

    def test_good(self):
        self.assertEqual((0, ""), self.check())

    def test_floors(self):
        self.refused("src/base/up.cpp", '// x\n#include "log/log.hpp"\n', "not a file")
        self.refused("src/base/up.cpp", '// x\n#include "vsphere/soap.cpp"\n', "base may not use vsphere")
        self.refused("src/vsphere/side.cpp", '// x\n#include "log/log.cpp"\n', "vsphere may not use log")
        self.refused("src/log/top.cpp", '// x\n#include "app/main.cpp"\n', "nobody includes app")
        self.refused("src/base/near.cpp", '// x\n#include "error.hpp"\n', "paths start at src/")
        self.refused("src/lost/lost.cpp", "// x\n", "no module")

    def test_libraries(self):
        self.refused("src/base/a.hpp", "// x\n#pragma once\n#include <fmt/format.h>\n", "stay in .cpp")
        self.refused("src/http/a.cpp", "// x\n#include <fmt/format.h>\n", "does not name fmt::fmt")
        self.refused("src/base/a.cpp", "// x\n#include <spdlog/spdlog.h>\n", "only src/log/")
        self.refused("src/vsphere/a.cpp", "// x\n#  include  <pugixml.hpp>\n", "only src/vsphere/soap.cpp")
        self.refused("src/app/a.cpp", "// x\n#include <curl/curl.h>\n", "only src/http/")
        self.refused("src/base/a.cpp", "// x\n#include <boost/asio.hpp>\n", "unknown library")

    def test_form(self):
        self.refused("src/base/a.hpp", "#pragma once\n// x\n", "open the file with a comment")
        self.refused("src/base/a.hpp", "// x\n", "#pragma once")
        for name in ("src/base/string_utils.cpp", "tests/support/DiskManager.cpp", "lab/helpers.go"):
            self.refused(name, "// x\n", "a name that says nothing")


def test(name, label, **environment):
    properties = [{"name": "LABELS", "value": [label]}] if label else []
    if environment:
        properties.append({"name": "ENVIRONMENT", "value": [f"{k}={v}" for k, v in environment.items()]})
    return {"name": name, "properties": properties}


USUAL = [test("unit.a", "unit"), test("contract.a", "contract"), test("lab.a", "lab")]
CRASH = [test(f"crash.{i}", "crash", VMFERRY_SLICES_OF_TESTS=8) for i in range(20)]
FAULTS = [test("faults", "faults", VMFERRY_SLICES=4)]


class SelectTests(unittest.TestCase):
    def select(self, tests, *arguments):
        done = subprocess.run([ROOT / "tools" / "select-tests", *arguments], input=json.dumps({"tests": tests}),
                              capture_output=True, text=True)
        rows = [line.split() for line in done.stdout.splitlines()]
        for number, name in rows:
            self.assertEqual(name, tests[int(number) - 1]["name"])
        return done.returncode, [name for _, name in rows], done.stderr

    def test_usual(self):
        code, chosen, words = self.select(USUAL, "--seed", "1")
        self.assertEqual((0, ["unit.a", "contract.a", "lab.a"]), (code, chosen))
        self.assertIn("lab: all 1 tests", words)

    def test_slices(self):
        code, chosen, words = self.select(USUAL + CRASH + FAULTS, "--seed", "12345")
        self.assertEqual(0, code)
        self.assertEqual(3, sum(name.startswith("crash.") for name in chosen))
        self.assertIn("faults", chosen)
        self.assertIn("crash: 3 of 20 tests, seed 12345; all of it: ./test --full crash", words)
        self.assertIn("faults: slice 1/4 of the cases, seed 12345; all of it: ./test --full faults", words)
        self.assertEqual(chosen, self.select(USUAL + CRASH + FAULTS, "--seed", "12345")[1])

    def test_every_test_has_its_seed(self):
        loader = importlib.machinery.SourceFileLoader("select_tests", str(ROOT / "tools" / "select-tests"))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader("select_tests", loader))
        loader.exec_module(module)
        tests = [module.Test(entry) for entry in CRASH]
        seen = {t.name for seed in range(100) for t in module.slice_of("crash", tests, seed)[0]}
        self.assertEqual(20, len(seen))

    def test_full(self):
        code, chosen, words = self.select(USUAL + CRASH + FAULTS, "--seed", "1", "--full", "crash")
        self.assertEqual((0, 20), (code, len(chosen)))
        self.assertIn("faults: left out", words)
        self.assertEqual(24, len(self.select(USUAL + CRASH + FAULTS, "--seed", "1", "--full", "all")[1]))

    def test_of_two_suites(self):
        """A test that each run has, and that belongs to a longer suite, too."""
        both = test("contract.both", "contract")
        both["properties"][0]["value"].append("crash")
        for seed in range(20):
            chosen = self.select(USUAL + CRASH + [both], "--seed", str(seed))[1]
            self.assertIn("contract.both", chosen)
            self.assertEqual(3, sum(name.startswith("crash.") for name in chosen))
        code, chosen, words = self.select(USUAL + CRASH + [both], "--seed", "1", "--full", "crash")
        self.assertEqual((0, 21), (code, len(chosen)))
        self.assertIn("contract: 1 of 2 tests; the rest runs with ./test", words)
        self.assertIn("lab: left out", words)

    def test_large_packages_only_when_asked(self):
        cloud = [test("cloud", "cloud", VMFERRY_SLICES=4, VMFERRY_ON_DEMAND=1)]
        code, chosen, words = self.select(USUAL + cloud, "--seed", "1")
        self.assertNotIn("cloud", chosen)
        self.assertIn("./test --full cloud", words)
        code, chosen, words = self.select(USUAL + cloud, "--seed", "1", "--only", "cloud")
        self.assertEqual((0, ["cloud"]), (code, chosen))
        self.assertIn("slice 1/4", words)
        self.assertEqual(["cloud"], self.select(USUAL + cloud, "--seed", "1", "--full", "cloud")[1])

    def test_refusals(self):
        self.assertIn("no test has the label flood", self.select(USUAL, "--seed", "1", "--full", "flood")[2])
        self.assertIn("not one lab test", self.select(USUAL[:2], "--seed", "1")[2])
        self.assertIn("have no label", self.select(USUAL + [test("stray", None)], "--seed", "1")[2])
        for tests, arguments in ((USUAL, ("--full", "flood")), (USUAL[:2], ()), (USUAL + [test("stray", None)], ())):
            self.assertNotEqual(0, self.select(tests, "--seed", "1", *arguments)[0])


if __name__ == "__main__":
    unittest.main(verbosity=1)
