"""Runs one part of a unittest file: shard.py K/N FILE runs the classes whose turn is K of N, so that ctest can
run the parts side by side. Whole classes, because a class may start a server; knows nothing of what they test."""

import importlib.util
import pathlib
import sys
import unittest


def main():
    try:
        turn, shards = (int(word) for word in sys.argv[1].split("/"))
        path = pathlib.Path(sys.argv[2]).resolve()
        assert 1 <= turn <= shards
    except (IndexError, ValueError, AssertionError):
        sys.exit("usage: shard.py K/N FILE [unittest options]")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)

    # Classes with most tests first, each to the shard that has least: the parts end at about the same time.
    loader = unittest.defaultTestLoader
    suites = {}
    for name, value in sorted(vars(module).items()):
        if isinstance(value, type) and issubclass(value, unittest.TestCase) and value.__module__ == path.stem:
            tests = loader.loadTestsFromTestCase(value)
            if tests.countTestCases():
                suites[name] = tests
    parts = [[] for _ in range(shards)]
    for name in sorted(suites, key=lambda name: -suites[name].countTestCases()):
        min(parts, key=lambda part: sum(suites[n].countTestCases() for n in part)).append(name)
    mine = parts[turn - 1]
    print(f"shard {turn}/{shards} of {path.name}: {', '.join(mine)}", flush=True)
    if not mine:
        sys.exit(f"{path.name} has fewer test classes than shards")
    result = unittest.TextTestRunner(verbosity=2, warnings="ignore").run(unittest.TestSuite(suites[n] for n in mine))
    # A class that is not in the slice of this run says so by a skip.
    sys.exit(0 if result.wasSuccessful() and (result.testsRun or result.skipped) else 1)


main()
