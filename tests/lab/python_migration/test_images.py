"""Disks by way of images: no conversion host, every byte through Glance into the Cinder volume, whatever is killed on the way."""

import json
import pathlib
import re
import signal

from journey import JourneyTest, slice_of


class ImagesTest(JourneyTest):
    def setUp(self):
        super().setUp()
        self.settings(import_methods=["glance-direct", "web-download", "copy-image"], import_converts=False, image_bytes_per_s=0)
        self.lab.control("openstack", "POST", "/quota", {"image_mib": -1})

    def settings(self, **values):
        self.lab.control("openstack", "POST", "/settings", values)

    def command(self, verb, *flags, target="openstack", path=None):
        arguments = super().command(verb, *flags, path=path)
        if verb in ("migrate", "cutover", "verify", "abort"):
            self.images.mkdir(exist_ok=True)
            arguments += ["--target", f"image:{self.images}"]
        return arguments

    def ferry(self, verb, *flags, env=None, **more):
        # Nothing that only a conversion host has.
        return super().ferry(verb, *flags, env={"VMFERRY_METADATA_URL": "", "VMFERRY_DEVICE_DIR": "", **(env or {})}, **more)

    def begin_anew(self):
        super().begin_anew()
        for image in self.images_there():
            self.cloud.image.delete_image(image["id"])

    def images_there(self):
        return [i for i in self.lab.control("openstack", "GET", "/state")["images"] if i["name"] != "conversion-host-image"]

    def uploads(self):
        return [c for c in self.lab.control("openstack", "GET", "/calls")
                if c["method"] == "PUT" and re.search(r"/(file|stage)$", c["path_or_object"]) and c.get("status") == 204]

    def assert_moved(self):
        self.assert_arrived()
        self.assertEqual(self.images_there(), [], "an image was left behind")
        self.assertEqual([p.name for p in self.images.iterdir() if p.name.startswith(".vmferry-upload")], [])
        state = self.lab.control("openstack", "GET", "/state")
        server = next(s for s in state["servers"] if s["name"] == "web01")
        volumes = {v["id"]: v for v in state["volumes"]}
        boot, data = (volumes[v] for v in server["volumes"])
        self.assertTrue(boot["bootable"])
        self.assertFalse(data["bootable"])
        self.assertIn("hw_disk_bus", boot["image_metadata"])
        seen = json.loads(self.ferry("status", "--volumes", "--json").out)["volumes"]
        self.assertEqual({v["id"]: (v["content"], v["servers"]) for v in seen},
                         {v["id"]: ("the moved disk", [server["id"]]) for v in (boot, data)})
        return boot, data

    def assert_undone(self):
        """What an abort leaves: the replica in the folder, and nothing in the cloud."""
        state = self.lab.control("openstack", "GET", "/state")
        self.assertEqual(self.images_there(), [])
        self.assertEqual(state["volumes"], [])
        host = self.lab.openstack["instance_id"]
        self.assertEqual([p for p in state["ports"] if p.get("device_id") != host], [])
        self.assert_nothing_left()

    def runs_and_writes(self):
        before = self.lab.vm()["writer"]["writes"]
        self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "on"})
        self.wait_for(lambda: self.lab.vm()["writer"]["writes"] > before + 50, what="writes of the guest")

    def quiet(self):
        """So that the last changes, which share the limit of the uploads, are few however long things take."""
        self.lab.control("vcenter", "POST", "/vms/web01/writer", {"running": False})
        self.addCleanup(self.lab.control, "vcenter", "POST", "/vms/web01/writer", {"running": True})

    def test_two_cycles_and_a_cutover(self):
        self.begin_anew()
        self.ferry("migrate")
        self.ferry("migrate")
        self.assertEqual(self.lab.volumes(), [], "cycles make no volume")
        done = self.ferry("cutover", "--json", *self.cutover_flags())
        result = done.events()[-1]
        self.assertGreater(result["downtime"]["delivery"], 0)
        boot, data = self.assert_moved()
        calls = [c["path_or_object"] for c in self.uploads()]
        self.assertEqual(len(calls), 2)
        self.assertTrue(all(c.endswith("/stage") for c in calls), calls)
        evidence = json.loads(pathlib.Path(result["evidence"]).with_suffix(".json").read_text())
        self.assertEqual([d["delivered_volume"] for d in evidence["disks"]], [boot["id"], data["id"]])
        for disk in evidence["disks"]:
            self.assertEqual(disk["image"]["format"], "qcow2")
            self.assertEqual(disk["image"]["hash_algorithm"], "sha512")
            self.assertEqual(disk["image"]["content"], disk["digests"]["root"])
        # What is moved is not moved again.
        self.assertIn("cut over already", self.ferry("migrate", ok=False).err)

    def test_raw_and_direct(self):
        self.begin_anew()
        self.ferry("cutover", "--image-format", "raw", "--image-upload", "direct", *self.cutover_flags())
        self.assert_moved()
        self.assertTrue(all(c["path_or_object"].endswith("/file") for c in self.uploads()))

    def test_a_cloud_without_import(self):
        self.begin_anew()
        self.settings(import_methods=[])
        refused = self.ferry("cutover", "--image-upload", "import", *self.cutover_flags(), ok=False)
        self.assertIn("--image-upload direct", refused.err)
        self.ferry("cutover", *self.cutover_flags())
        self.assert_moved()

    def test_an_import_that_converts(self):
        self.begin_anew()
        self.settings(import_converts=True)
        done = self.ferry("cutover", *self.cutover_flags())
        self.assertIn("converted image", done.err)
        self.assertIn("compared with the raw disk", done.err)
        self.assert_moved()

    def test_killed_in_the_middle_of_an_upload(self):
        for method in ("direct", "import"):
            with self.subTest(method=method):
                self.state = self.lab.work / f"upload-{method}"
                self.state.mkdir()
                self.images = self.state / "images"
                self.begin_anew()
                self.ferry("migrate")
                self.settings(image_bytes_per_s=256 << 10)  # more than a minute for each disk
                flags = ["--image-format", "raw", "--image-upload", method, *self.cutover_flags()]
                process = self.start("cutover", "--json", *flags)
                sending = False
                for line in process.stdout:
                    event = json.loads(line)
                    sending |= event["event"] == "step_started" and event["step"] == "bring the disks to the cloud"
                    if sending and event["event"] == "progress" and 0 < event["done"] < event["total"]:
                        process.kill()
                        break
                process.wait()
                process.stdout.close()
                process.stderr.close()
                self.assertEqual(process.returncode, -signal.SIGKILL)
                self.settings(image_bytes_per_s=0)
                self.assertIn(len(self.images_there()), (1, 2))
                self.ferry("cutover", *flags)
                self.assert_moved()

    def test_stopped_in_the_middle_of_an_upload(self):
        self.begin_anew()
        self.ferry("migrate")
        self.settings(image_bytes_per_s=64 << 10)  # more than four minutes for each disk
        process = self.start("cutover", "--image-format", "raw", "--image-upload", "direct", *self.cutover_flags())
        self.wait_for(lambda: any(i["status"] == "saving" for i in self.images_there()), what="an upload")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)  # it does not wait for an upload's end
        self.assertEqual(process.returncode, 130, err)
        self.settings(image_bytes_per_s=0)
        self.assertEqual(self.images_there(), [], err)
        self.ferry("cutover", *self.cutover_flags())
        self.assert_moved()

    def test_killed_at_each_point_of_the_delivery(self):
        self.begin_anew()
        listing = self.state / "points"
        self.ferry("cutover", *self.cutover_flags(), env={"VMFERRY_CRASH_POINTS": str(listing)})
        points = listing.read_text().splitlines()
        mine = points[points.index("bring the disks to the cloud|before"):]
        self.assertTrue(any("ImageUploaded" in p for p in mine) and any("VolumeDelivered" in p for p in mine), mine)
        for number, point in enumerate(slice_of(mine)):
            with self.subTest(point=point):
                self.state = self.lab.work / f"point-{number}"
                self.state.mkdir()
                self.images = self.state / "images"
                self.begin_anew()
                died = self.ferry("cutover", *self.cutover_flags(), ok=False, env={"VMFERRY_CRASH_AT": point})
                self.assertEqual(died.code, -signal.SIGKILL, str(died))
                self.ferry("cutover", *self.cutover_flags())
                self.assert_moved()

    def test_abort_after_a_crash_leaves_the_folder_alone(self):
        self.begin_anew()
        listing = self.state / "points"
        self.ferry("cutover", *self.cutover_flags(), env={"VMFERRY_CRASH_POINTS": str(listing)})
        points = listing.read_text().splitlines()
        for word in ("after ImageUploaded", "after VolumeDelivered", "before ImageUploaded"):
            point = next(p for p in points if word in p)
            with self.subTest(point=point):
                self.state = self.lab.work / ("abort-" + re.sub(r"\W", "-", point))
                self.state.mkdir()
                self.images = self.state / "images"
                self.begin_anew()
                died = self.ferry("cutover", *self.cutover_flags(), ok=False, env={"VMFERRY_CRASH_AT": point})
                self.assertEqual(died.code, -signal.SIGKILL, str(died))
                self.ferry("abort")
                self.assert_undone()
                self.assertEqual(len(list((self.images / "web01").glob("*.img"))), 2)

    def test_what_was_delivered_is_used_while_it_is_right(self):
        self.begin_anew()
        died = self.ferry("cutover", *self.cutover_flags(), ok=False, env={"VMFERRY_CRASH_AT": "create the server|before"})
        self.assertEqual(died.code, -signal.SIGKILL, str(died))
        before = {v["id"] for v in self.lab.volumes()}
        self.lab.control("openstack", "DELETE", "/calls")
        done = self.ferry("cutover", *self.cutover_flags())
        self.assertIn("holds it already", done.err)
        self.assertEqual(self.uploads(), [], "sent twice")
        self.assert_moved()
        self.assertEqual({v["id"] for v in self.lab.volumes()}, before)

    def test_what_was_delivered_is_not_used_once_the_machine_ran_again(self):
        self.begin_anew()
        died = self.ferry("cutover", *self.cutover_flags(), ok=False, env={"VMFERRY_CRASH_AT": "create the server|before"})
        self.assertEqual(died.code, -signal.SIGKILL, str(died))
        before = {v["id"] for v in self.lab.volumes()}
        self.runs_and_writes()
        self.ferry("migrate")
        self.ferry("cutover", *self.cutover_flags())
        self.assert_moved()
        self.assertEqual({v["id"] for v in self.lab.volumes()} & before, set(), "an old volume was used")

    def test_a_machine_that_ran_during_the_uploads_and_is_off_again(self):
        self.begin_anew()
        self.ferry("migrate")
        self.settings(image_bytes_per_s=256 << 10)  # more than a minute for each disk
        process = self.start("cutover", "--image-format", "raw", "--image-upload", "direct", *self.cutover_flags())
        self.wait_for(lambda: any(i["status"] == "saving" for i in self.images_there()), what="an upload")
        self.runs_and_writes()
        self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "off"})
        self.settings(image_bytes_per_s=0)
        _, err = process.communicate(timeout=300)
        self.assertNotEqual(process.returncode, 0)
        self.assertIn("ran again after its last copy was made", err)
        before = {v["id"] for v in self.lab.volumes()}
        self.ferry("cutover", *self.cutover_flags())
        self.assert_moved()
        self.assertNotEqual({v["id"] for v in self.lab.volumes()}, before, "what was written in between is lost")

    def test_a_full_image_store(self):
        self.begin_anew()
        self.lab.control("openstack", "POST", "/faults", {"service": "image", "method": "PUT", "path_regex": "/file$", "kind": "http",
                                                          "status": 413, "message": "Project is over a limit", "count": 1})
        refused = self.ferry("cutover", "--image-upload", "direct", *self.cutover_flags(), ok=False)
        self.assertIn("over a limit", refused.err)
        self.assertIn("have the project's quota raised", refused.err)
        self.ferry("cutover", *self.cutover_flags())
        self.assert_moved()
        self.assertEqual(len(self.uploads()), 2, "the other disk was sent again")

    def test_disks_are_sent_at_once_within_the_limit(self):
        self.begin_anew()
        self.quiet()
        self.ferry("migrate")
        process = self.start("cutover", "--json", "--image-format", "raw", "--bandwidth", "2M", *self.cutover_flags())
        self.wait_for(lambda: [i["status"] for i in self.images_there()] == ["uploading"] * 2, what="two uploads at once")
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, err)
        result = [json.loads(line) for line in out.splitlines()][-1]
        self.assertGreater(result["downtime"]["delivery"], 4, "33 MiB at 2 MiB/s")
        self.assert_moved()

    def test_a_lifted_limit_acts_on_an_upload(self):
        self.begin_anew()
        self.quiet()
        self.ferry("migrate")
        process = self.start("cutover", "--image-format", "raw", "--bandwidth", "64K", *self.cutover_flags())
        self.wait_for(lambda: any(i["status"] == "uploading" for i in self.images_there()), seconds=300, what="an upload")
        self.ferry("limits", "--vm", "web01", "--bandwidth", "none")
        _, err = process.communicate(timeout=200)  # it would take nine minutes
        self.assertEqual(process.returncode, 0, err)
        self.assert_moved()

    def test_no_room_for_the_volumes_is_found_while_the_machine_runs(self):
        self.begin_anew()
        self.ferry("migrate")
        self.lab.control("openstack", "POST", "/quota", {"volumes": 1})
        try:
            refused = self.ferry("cutover", *self.cutover_flags(), ok=False)
        finally:
            self.lab.control("openstack", "POST", "/quota", {"volumes": 50})
        self.assertIn("no room for 2 more volumes", refused.err)
        self.assertEqual(self.lab.vm()["power"], "on")

    def test_a_volume_that_was_ordered_when_the_run_died_is_used(self):
        self.begin_anew()
        died = self.ferry("cutover", *self.cutover_flags(), ok=False, env={"VMFERRY_CRASH_AT": "bring the disks to the cloud|before VolumeDelivered"})
        self.assertEqual(died.code, -signal.SIGKILL, str(died))
        ordered = {v["id"] for v in self.lab.volumes()}
        self.assertEqual(len(ordered), 2)
        self.ferry("cutover", *self.cutover_flags())
        self.assert_moved()
        self.assertEqual({v["id"] for v in self.lab.volumes()}, ordered)

    def test_a_failed_import_says_why(self):
        self.begin_anew()
        self.lab.control("openstack", "POST", "/faults", {"service": "image", "method": "POST", "path_regex": "/import$", "kind": "fault",
                                                          "fault": "no space in the store", "count": 3})
        refused = self.ferry("cutover", *self.cutover_flags(), ok=False)
        self.assertIn("no space in the store", refused.err)
        self.assertEqual(self.images_there(), [])
        self.ferry("cutover", *self.cutover_flags())
        self.assert_moved()

    def test_a_volume_that_could_not_be_made(self):
        self.begin_anew()
        self.lab.control("openstack", "POST", "/faults", {"service": "volume", "method": "POST", "path_regex": "/volumes$", "kind": "fault",
                                                          "fault": "no backend", "count": 1})
        refused = self.ferry("cutover", *self.cutover_flags(), ok=False)
        self.assertIn("went into status error", refused.err)
        self.lab.control("openstack", "DELETE", "/calls")
        self.ferry("cutover", *self.cutover_flags())
        self.assert_moved()
        self.assertEqual(self.uploads(), [], "sent again although the image was there")
