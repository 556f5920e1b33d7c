"""kill -9 at every point of a migration, then the same command again: the same end, equal bytes, nothing left over.

The points come from the program: each step and each fact tells its own as it passes."""

import signal

from journey import JourneyTest, slice_of

# How many checkpoints a copy makes depends on how long it takes: a point of one run is none of another that is faster. These are
# passed by every copy that takes some seconds, and die() makes it take so long.
CHECKPOINTS = [f"copy disks|{point}" for point in ("before DiskProgressed", "after DiskProgressed", "before DiskProgressed#3", "after DiskProgressed#3")]


class CrashTest(JourneyTest):
    def points_of(self, *command, least=15):
        """Those of a run that nothing disturbs, without checkpoints."""
        listing = self.state / "points"
        self.ferry(*command, env={"VMFERRY_CRASH_POINTS": str(listing)})
        points = [point for point in listing.read_text().splitlines() if "DiskProgressed" not in point]
        self.assertGreater(len(points), least, points)
        self.assertEqual(len(points), len(set(points)))
        return points

    def die(self, point, *command):
        slowed = "DiskProgressed" in point
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0.5 if slowed else 0})
        died = self.ferry(*command, ok=False, env={"VMFERRY_CRASH_AT": point})
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        self.assertEqual(died.code, -signal.SIGKILL, f"{point} was not passed: {died}")

    def each(self, points, what, act):
        chosen = slice_of(points)
        print(f"\n{what}: {len(chosen)} of {len(points)} points; all of them: ./test --full crash", flush=True)
        for number, point in enumerate(chosen):
            # A state folder of its own: the last point's journal must not help.
            self.state = self.lab.work / f"{what}-{number}"
            self.state.mkdir()
            self.images = self.state / "images"
            with self.subTest(point=point):
                self.begin_anew()
                act(point)

    def test_first_cycle(self):
        self.begin_anew()
        points = self.points_of("migrate") + CHECKPOINTS

        def act(point):
            self.die(point, "migrate")
            self.ferry("migrate")
            self.prove()
            self.assert_nothing_left()

        self.each(points, "migrate", act)

    def test_cutover(self):
        self.begin_anew()
        points = self.points_of("cutover", *self.cutover_flags()) + CHECKPOINTS

        def act(point):
            self.die(point, "cutover", *self.cutover_flags())
            self.ferry("cutover", *self.cutover_flags())
            self.assert_arrived()

        self.each(points, "cutover", act)

    def test_abort_after_a_crash(self):
        self.begin_anew()
        points = self.points_of("cutover", *self.cutover_flags())
        # With the server there is nothing to abort any more.
        points = points[:points.index("create the server|before ServerLaunched")] + CHECKPOINTS

        def act(point):
            self.die(point, "cutover", *self.cutover_flags())
            self.ferry("abort", "--delete-volumes")
            self.assert_nothing_left()
            state = self.lab.control("openstack", "GET", "/state")
            self.assertEqual(state["volumes"], [])
            host = self.lab.openstack["instance_id"]
            self.assertEqual([p for p in state["ports"] if p.get("device_id") != host], [])

        self.each(points, "abort", act)

    def test_abort(self):
        self.begin_anew()
        self.ferry("migrate")
        points = self.points_of("abort", "--delete-volumes", least=5)

        def act(point):
            self.ferry("migrate")
            self.die(point, "abort", "--delete-volumes")
            again = self.ferry("abort", "--delete-volumes", ok=False)
            if again.code != 0:
                self.assertIn("no unfinished job", again.err, "it had come to its end")
            self.assert_nothing_left()
            self.assertEqual(self.lab.volumes(), [])
            self.assertEqual(list((self.state / "s" / "digests").glob("*")), [])

        self.each(points, "abort-killed", act)
