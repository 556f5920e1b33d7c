// Disks from files here: what is flat by nbdkit, hosted sparse kinds (made by qemu-img) by qemu-nbd, and all that a
// descriptor may say to lead astray.
#include <gtest/gtest.h>
#include <sys/sysmacros.h>

#include "transport_fixture.hpp"

namespace vmferry::source::vmware::test {

namespace {

const std::string head = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\n";
const std::string alone = head + "parentCID=ffffffff\ncreateType=\"vmfs\"\n\n# Extent description\n";

class FileTransportTest : public TransportTest {
 protected:
  std::unique_ptr<Transport> transport(std::map<std::string, std::filesystem::path> datastores = {}) {
    return file_transport({folder_.path(), std::move(datastores), folder_.path() / "run"}, runner_, log_);
  }
  std::string slice(std::size_t at, std::size_t bytes) const {
    return {content_.begin() + static_cast<std::ptrdiff_t>(at),
            content_.begin() + static_cast<std::ptrdiff_t>(at + bytes)};
  }
  void qemu_img(std::vector<std::string> args) {
    process::Command command;
    command.program = "qemu-img";
    command.args = std::move(args);
    const process::Output output = process::run(runner_, command, std::chrono::seconds(60), {});
    ASSERT_TRUE(output.status.ok()) << output.err;
  }
  std::string path(const std::string& name) const { return folder_.path() / name; }
  void expect_copied(Transport& made, const std::string& file) {
    const FrozenDisk frozen = disk(file, content_.size());
    ASSERT_FALSE(made.refuses(frozen)) << *made.refuses(frozen);
    EXPECT_TRUE(copied(*made.serve(point_, frozen, {})) == content_) << file;
  }

  const std::vector<char> content_ = random_content(3 * 1024 * 1024 + 512);  // 6145 sectors
};

}  // namespace

TEST_F(FileTransportTest, FindsFlatAndRawDisks) {
  const std::string bytes = slice(0, content_.size());
  write("web01/web01.vmdk", alone + "RW 6145 VMFS \"web01-flat.vmdk\"\n");
  write("web01/web01-flat.vmdk", bytes);
  write("alone-flat.vmdk", bytes);                                     // without its descriptor
  write("side.vmdk", alone + "RW 6145 FLAT \"other-f001.vmdk\" 0\n");  // beside the others, by its descriptor's word
  write("other-f001.vmdk", bytes);
  write("disk.img", bytes);
  const auto made = transport();
  EXPECT_EQ(made->name(), "file");
  for (const char* file :
       {"[ds1] web01/web01.vmdk", "[ds1] vm/alone.vmdk", "[ds1] vm/side.vmdk", "disk.img", "web01/web01-flat.vmdk"})
    expect_copied(*made, file);
}

TEST_F(FileTransportTest, EachDatastoreHasItsFolder) {
  write("one/web01/web01-flat.vmdk", slice(0, content_.size()));
  write("two/web01/web01-flat.vmdk", std::string(content_.size(), 'x'));
  const auto made = file_transport({"", {{"one", path("one")}, {"two", path("two")}}, path("run")}, runner_, log_);
  expect_copied(*made, "[one] web01/web01.vmdk");
  EXPECT_TRUE(copied(*made->serve(point_, disk("[two] web01/web01.vmdk", content_.size()), {})) ==
              std::vector<char>(content_.size(), 'x'));
  const auto reason = made->refuses(disk("[three] web01/web01.vmdk", content_.size()));
  ASSERT_TRUE(reason);
  EXPECT_NE(reason->find("--local-disk-path 'three=DIR'"), std::string::npos) << *reason;
}

// vmkfstools -d 2gbsparse and VMware Workstation: pieces; an extent that begins inside its file, or ends before it
// does.
TEST_F(FileTransportTest, FlatExtentsInPieces) {
  write("f1", slice(0, 2049 * 512));
  write("f2", slice(2049 * 512, 4096 * 512));
  write("parts.vmdk", alone + "RW 2049 FLAT \"f1\" 0\nRW 4096 FLAT \"f2\" 0\n");
  write("shifted", std::string(3 * 512, 'a') + slice(0, content_.size()) + std::string(512, 'z'));
  write("one.vmdk", alone + "RW 6145 FLAT \"shifted\" 3\n");
  write("both.vmdk", alone + "RW 2049 FLAT \"shifted\" 3\nRDONLY 4096 FLAT \"shifted\" 2052\n");
  const auto made = transport();
  for (const char* file : {"[ds] parts.vmdk", "[ds] one.vmdk", "[ds] both.vmdk"}) expect_copied(*made, file);
}

TEST_F(FileTransportTest, HostedSparseKinds) {
  write("raw", slice(0, content_.size()));
  const auto made = transport();
  for (const char* kind :
       {"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"}) {
    const std::string file = std::string(kind) + ".vmdk";
    qemu_img({"convert", "-f", "raw", "-O", "vmdk", "-o", std::string("subformat=") + kind, path("raw"), path(file)});
    expect_copied(*made, "[ds] " + file);
  }
  // Flat and sparse ones together, the second of them smaller than a grain.
  write("end", slice(6144 * 512, 512));
  qemu_img({"convert", "-f", "raw", "-O", "vmdk", path("end"), path("last.vmdk")});
  write("begin", slice(0, 6144 * 512));
  write("mixed.vmdk", alone + "RW 6144 FLAT \"begin\" 0\nRW 1 SPARSE \"last.vmdk\"\n");
  expect_copied(*made, "[ds] mixed.vmdk");
}

// What vSphere exports: its header sends the reader to a copy of it at the end, which knows where the tables of grains
// came to lie.
TEST_F(FileTransportTest, AStreamOptimizedFileWithAFooter) {
  write("raw", slice(0, content_.size()));
  qemu_img({"convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", path("raw"), path("web01.vmdk")});
  const std::vector<char> whole = bytes_of(path("web01.vmdk"));
  std::string sparse(whole.begin(), whole.end());
  sparse.resize((sparse.size() + 511) / 512 * 512);
  std::string footer = sparse.substr(0, 512), marker(512, '\0');
  sparse.replace(56, 8, std::string(8, '\xff'));  // gdOffset: see the footer
  marker[12] = 3;                                 // MARKER_FOOTER
  write("web01.vmdk", sparse + marker + footer + std::string(512, '\0'));
  expect_copied(*transport(), "[ds] web01.vmdk");
  footer.replace(12, 2, std::string("\0\x20", 2));  // capacity: 8192 sectors
  write("web01.vmdk", sparse + marker + footer + std::string(512, '\0'));
  const Error error =
      thrown([&] { transport()->serve(point_, disk("[ds] web01.vmdk", content_.size()), {})->connect({}); });
  EXPECT_EQ(error.fault(), Fault::data) << error.what();
}

TEST_F(FileTransportTest, SourceFilesAreNotWritten) {
  write("raw", slice(0, content_.size()));
  qemu_img({"convert", "-f", "raw", "-O", "vmdk", path("raw"), path("web01.vmdk")});
  std::filesystem::permissions(path("web01.vmdk"), std::filesystem::perms::owner_read);
  const auto changed = [&] {
    struct stat st {};
    stat(path("web01.vmdk").c_str(), &st);
    return std::tuple(st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
  };
  const auto before = changed();
  expect_copied(*transport(), "[ds] web01.vmdk");
  EXPECT_EQ(before, changed());
}

// qemu-nbd, where flat files have nbdkit.
TEST_F(FileTransportTest, TheServerOfSparseFilesIsStartedAgain) {
  write("raw", slice(0, content_.size()));
  qemu_img({"convert", "-f", "raw", "-O", "vmdk", path("raw"), path("sparse.vmdk")});
  const auto source = transport()->serve(point_, disk("[ds] sparse.vmdk", content_.size()), {});
  const int pid = server_pid(folder_.path());
  ASSERT_GT(pid, 0);
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  EXPECT_TRUE(copied(*source) == content_);
}

TEST_F(FileTransportTest, AFileThatWentOrShrankMeanwhileIsNamed) {
  write("web01-flat.vmdk", slice(0, content_.size()));
  auto source = transport()->serve(point_, disk("[ds] web01.vmdk", content_.size()), {});
  std::filesystem::resize_file(path("web01-flat.vmdk"), 1024 * 1024);
  const Error shrunk = thrown([&] { copied(*source); });
  EXPECT_NE(std::string(shrunk.what()).find("has 1048576 bytes"), std::string::npos) << shrunk.what();
  std::filesystem::remove(path("web01-flat.vmdk"));
  source->failed({0, 512});
  const Error gone = thrown([&] { source->connect({}); });
  EXPECT_NE(std::string(gone.what()).find("was not found below"), std::string::npos) << gone.what();
}

// Its descriptor allows a longer file, so that looking at it again finds nothing wrong.
TEST_F(FileTransportTest, AnExportOfAnotherSizeIsNotRead) {
  write("web01.vmdk", alone + "RW 6145 VMFS \"web01-flat.vmdk\"\n");
  write("web01-flat.vmdk", slice(0, content_.size()));
  const auto source = transport()->serve(point_, disk("[ds] web01.vmdk", content_.size()), {});
  std::filesystem::resize_file(path("web01-flat.vmdk"), 4194304);
  const Error error = thrown([&] { source->connect({}); });
  EXPECT_EQ(error.fault(), Fault::data);
  EXPECT_NE(std::string(error.what()).find("4194304 bytes"), std::string::npos) << error.what();
}

// A stale handle of a network file system stays stale in a server that holds it; others may still read from that one.
TEST_F(FileTransportTest, AfterAFailedReadAHostedSparseFileIsOpenedAnew) {
  write("raw", slice(0, content_.size()));
  qemu_img({"convert", "-f", "raw", "-O", "vmdk", path("raw"), path("web01.vmdk")});
  const auto source = transport()->serve(point_, disk("[ds] web01.vmdk", content_.size()), {});
  const int first = server_pid(folder_.path());
  ASSERT_GT(first, 0);
  const auto before = source->connect({});
  source->failed({0, 512});
  const auto after = source->connect({});
  EXPECT_EQ(kill(first, 0), 0);
  int servers = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc"))
    if (const std::string line = command_line(entry.path());
        line.starts_with("qemu-nbd ") && line.find(folder_.path().string()) != std::string::npos)
      ++servers;
  EXPECT_EQ(servers, 2);
  EXPECT_TRUE(copied(*source) == content_);
}

TEST_F(FileTransportTest, AFileThatWasReplacedWhileItWasReadIsNoticed) {
  for (const bool dies : {false, true}) {
    write("web01-flat.vmdk", slice(0, content_.size()));
    const auto source = transport()->serve(point_, disk("[ds] web01.vmdk", content_.size()), {});
    write("new", std::string(content_.size(), 'x'));
    std::filesystem::last_write_time(path("new"),
                                     std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
    std::filesystem::rename(path("new"), path("web01-flat.vmdk"));
    if (dies)
      kill_server(folder_.path());
    else
      source->failed({0, 512});
    try {
      copied(*source);
      ADD_FAILURE() << "what was read is believed";
    } catch (const copy::BytesInDoubt& error) {
      EXPECT_NE(std::string(error.what()).find("was replaced"), std::string::npos) << error.what();
    }
  }
}

// No read need fail: a connection that is open goes on with what it opened, and the next one has the other file.
TEST_F(FileTransportTest, AFileThatWasReplacedBetweenTwoConnectionsIsNoticedAtTheEnd) {
  write("web01-flat.vmdk", slice(0, content_.size()));
  const auto source = transport()->serve(point_, disk("[ds] web01.vmdk", content_.size()), {});
  EXPECT_NO_THROW(source->check({}));
  write("new", std::string(content_.size(), 'x'));
  std::filesystem::last_write_time(path("new"), std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  std::filesystem::rename(path("new"), path("web01-flat.vmdk"));
  EXPECT_THROW(copied(*source), copy::BytesInDoubt);
  std::filesystem::remove(path("web01-flat.vmdk"));
  EXPECT_NO_THROW(source->check({})) << "what cannot be seen proves nothing";
}

TEST_F(FileTransportTest, NoFileIsTwoDisks) {
  write("web01/web01-flat.vmdk", std::string(1024, 'x'));
  write("side-flat.vmdk", std::string(1024, 'x'));
  std::filesystem::create_hard_link(path("side-flat.vmdk"), path("linked-flat.vmdk"));
  const auto refusal = [&](const Transport& made, const char* one, const char* other) -> std::string {
    Point point;
    point.disks = {disk(one, 1024), disk(other, 1024)};
    point.disks[1].key.value = 2001;
    for (const FrozenDisk& of : point.disks) {
      EXPECT_FALSE(made.refuses(of));
      try {
        const_cast<Transport&>(made).serve(point, of, {});
      } catch (const Error& error) {
        EXPECT_EQ(error.fault(), Fault::unsupported);
        for (const char* word : {"2000", "2001", one, other, "--local-disk-path"})
          EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
        if (of.key.value == 2001) return error.what();
        continue;
      }
      return {};
    }
    return {};
  };
  const auto made = transport();
  EXPECT_NE(refusal(*made, "[ds1] web01/web01.vmdk", "[ds2] web01/web01.vmdk"), "");
  EXPECT_NE(refusal(*made, "[ds1] web01/side.vmdk", "[ds1] web01_1/side.vmdk"), "");
  EXPECT_NE(refusal(*made, "[ds1] side.vmdk", "[ds1] linked.vmdk"), "");
  EXPECT_NE(refusal(*made, "[ds1] web01/web01.vmdk", "[ds2] side.vmdk"), "") << "which of them lies here is not known";
  EXPECT_EQ(refusal(*made, "[ds1] web01/web01.vmdk", "[ds1] side.vmdk"), "");
  // Said by name, one folder may have the disks of two datastores; not the same file.
  const auto named = transport({{"ds2", folder_.path()}});
  EXPECT_EQ(refusal(*named, "[ds1] web01/web01.vmdk", "[ds2] side.vmdk"), "");
  EXPECT_NE(refusal(*named, "[ds1] web01/web01.vmdk", "[ds2] web01/web01.vmdk"), "");
}

// As vSphere and an ESXi host's descriptors spell it.
TEST_F(FileTransportTest, ADescriptorOfAnotherDiskIsRefused) {
  const std::string extent = "RW 2 VMFS \"web01-flat.vmdk\"\n";
  write("web01-flat.vmdk", std::string(1024, 'x'));
  FrozenDisk frozen = disk("[ds] vm/web01.vmdk", 1024);
  frozen.uuid = "6000C293-a221-8a53-2e59-8130952455b7";
  const auto made = transport();
  write("web01.vmdk", alone + extent + "ddb.uuid = \"60 00 C2 93 a2 21 8a 53-2e 59 81 30 95 24 55 b7\"\n");
  EXPECT_FALSE(made->refuses(frozen));
  write("web01.vmdk", alone + extent + "ddb.uuid = \"60 00 C2 93 a2 21 8a 53-2e 59 81 30 95 24 55 b8\"\n");
  const auto reason = made->refuses(frozen);
  ASSERT_TRUE(reason);
  EXPECT_NE(reason->find("is another disk"), std::string::npos) << *reason;
  EXPECT_NE(reason->find("--local-disk-path 'ds=DIR'"), std::string::npos) << *reason;
  frozen.uuid.clear();
  EXPECT_FALSE(made->refuses(frozen)) << "vSphere did not say";
  frozen.uuid = "6000C293-a221-8a53-2e59-8130952455b7";
  for (const char* nothing : {"", "ddb.uuid = \"\"\n", "ddb.uuid = \"60 00\"\n"}) {
    write("web01.vmdk", alone + extent + nothing);
    EXPECT_FALSE(made->refuses(frozen)) << nothing;
  }
}

TEST_F(FileTransportTest, TheDescriptorInsideASparseFileCountsToo) {
  write("raw", slice(0, content_.size()));
  qemu_img({"convert", "-f", "raw", "-O", "vmdk", path("raw"), path("web01.vmdk")});
  const std::vector<char> whole = bytes_of(path("web01.vmdk"));
  std::string sparse(whole.begin(), whole.end());
  const auto at = sparse.find("ddb.virtualHWVersion");
  ASSERT_NE(at, std::string::npos);
  const std::string uuid = "ddb.uuid = \"60 00 C2 93 a2 21 8a 53-2e 59 81 30 95 24 55 b7\"\n";
  sparse.replace(at, uuid.size(), uuid);
  write("web01.vmdk", sparse);
  FrozenDisk frozen = disk("[ds] web01.vmdk", content_.size());
  frozen.uuid = "6000C293-a221-8a53-2e59-8130952455b7";
  EXPECT_FALSE(transport()->refuses(frozen));
  frozen.uuid.back() = '0';
  EXPECT_TRUE(transport()->refuses(frozen));
}

TEST_F(FileTransportTest, UuidsTellTheDisksOfTwoDatastoresApart) {
  write("web01/web01-flat.vmdk", std::string(1024, 'x'));
  write("web01/web01.vmdk",
        alone + "RW 2 VMFS \"web01-flat.vmdk\"\n" + "ddb.uuid = \"60 00 C2 93 a2 21 8a 53-2e 59 81 30 95 24 55 b7\"\n");
  Point point;
  point.disks = {disk("[ds1] web01/web01.vmdk", 1024), disk("[ds2] web01/web01.vmdk", 1024)};
  point.disks[1].key.value = 2001;
  point.disks[0].uuid = "6000C293-a221-8a53-2e59-8130952455b7";
  point.disks[1].uuid = "6000C29a-a221-8a53-2e59-8130952455b7";
  const auto made = transport();
  EXPECT_TRUE(copied(*made->serve(point, point.disks[0], {})) == std::vector<char>(1024, 'x'));
  const Error error = thrown([&] { made->serve(point, point.disks[1], {}); });
  EXPECT_NE(std::string(error.what()).find("is another disk"), std::string::npos) << error.what();
}

// None of it proves anything, so it is said and not refused.
TEST_F(FileTransportTest, WarnsOfWhatMayBeOutdated) {
  const std::string extent = "RW 2 VMFS \"web01-flat.vmdk\"\n";
  write("web01-flat.vmdk", std::string(1024, 'x'));
  int logs = 0;
  const auto said = [&](Consistency consistency, const std::string& content_id) {
    Point point;
    point.consistency = consistency;
    point.disks = {disk("[ds] web01.vmdk", 1024)};
    point.disks[0].content_id = content_id;
    const std::filesystem::path file = path("log" + std::to_string(++logs));
    log::Log log(file, std::make_shared<log::Redactor>(), log::Level::warning, false, log::Level::error);
    FileOptions options{folder_.path(), {}, folder_.path() / "run"};
    file_transport(std::move(options), runner_, log)->serve(point, point.disks[0], {});
    const std::vector<char> bytes = bytes_of(file);
    return std::string(bytes.begin(), bytes.end());
  };
  const std::string content_id = "0cbdf976b209845ae3158402d93cf623";
  EXPECT_NE(said(Consistency::crash, content_id).find("has no descriptor"), std::string::npos);
  EXPECT_NE(said(Consistency::application, "").find("has no descriptor"), std::string::npos);
  EXPECT_EQ(said(Consistency::powered_off, content_id), "");
  const std::string as_esxi = "# Disk DescriptorFile\nversion=1\nCID=d93cf623\nparentCID=ffffffff\n" + extent;
  for (const std::string& descriptor : {as_esxi, as_esxi + "ddb.longContentID = \"" + content_id + "\"\n"}) {
    write("web01.vmdk", descriptor);
    EXPECT_EQ(said(Consistency::crash, content_id), "");
    EXPECT_EQ(said(Consistency::crash, ""), "");
    for (const Consistency consistency : {Consistency::crash, Consistency::powered_off})
      EXPECT_NE(said(consistency, "0cbdf976b209845ae3158402d93cf624").find("content id"), std::string::npos);
  }
  write("web01.vmdk", alone + extent);
  EXPECT_EQ(said(Consistency::crash, content_id), "") << "a CID of fffffffe says nothing";
}

TEST_F(FileTransportTest, RefusesWhatItCannotRead) {
  write("flat-flat.vmdk", std::string(1024, 'x'));
  write("sparse.vmdk", "KDMV" + std::string(1020, '\0'));
  write("cut.vmdk", "KDMV");
  write("redo.vmdk", "COWD" + std::string(1020, '\0'));
  write("sesparse.vmdk", std::string("\xbe\xba\xfe\xca\0\0\0\0", 8) + std::string(1016, '\0'));
  write("se.vmdk", alone + "RW 2 SESPARSE \"se-sesparse.vmdk\"\n");
  write("child.vmdk", head + "parentCID=12345678\ncreateType=\"vmfs\"\nRW 2 VMFS \"flat-flat.vmdk\"\n");
  write("hint.vmdk", alone + "RW 2 VMFS \"flat-flat.vmdk\"\nparentFileNameHint=\"/etc/shadow\"\n");
  write("two.vmdk", alone + "RW 1 FLAT \"flat-flat.vmdk\" 0\nRW 2 FLAT \"flat-flat.vmdk\" 0\n");
  write("beyond.vmdk", alone + "RW 2 FLAT \"flat-flat.vmdk\" 1\n");
  write("overflow.vmdk", alone + "RW 2 FLAT \"flat-flat.vmdk\" 36028797018963968\n");
  write("escape.vmdk", alone + "RW 2 VMFS \"../../etc/passwd\"\n");
  write("absolute.vmdk", alone + "RW 2 FLAT \"/dev/sda\" 0\n");
  write("protocol.vmdk", alone + "RW 2 SPARSE \"nbd:localhost:1\"\n");
  write("raw.vmdk", alone + "RW 2 VMFSRDM \"flat-flat.vmdk\"\n");
  write("zero.vmdk", alone + "RW 2 ZERO\n");
  write("closed.vmdk", alone + "NOACCESS 2 FLAT \"flat-flat.vmdk\" 0\n");
  write("linked.vmdk", alone + "RW 2 FLAT \"link\" 0\n");
  write("device.vmdk", alone + "RW 2 FLAT \"node\" 0\n");
  write("nosparse.vmdk", alone + "RW 2 SPARSE \"flat-flat.vmdk\"\n");
  write("text.vmdk", "hello");
  write("small-flat.vmdk", "x");
  std::filesystem::create_symlink("flat-flat.vmdk", path("link"));
  ASSERT_EQ(mknod(path("node").c_str(), S_IFCHR | 0600, makedev(1, 5)), 0);
  ASSERT_EQ(mkfifo(path("pipe.vmdk").c_str(), 0600), 0);
  const auto made = transport();
  const std::vector<std::pair<const char*, const char*>> cases{{"sparse.vmdk", "sparse VMDK of 0 sectors"},
                                                               {"cut.vmdk", "damaged or incomplete"},
                                                               {"redo.vmdk", "redo layer"},
                                                               {"sesparse.vmdk", "redo layer"},
                                                               {"se.vmdk", "redo layer"},
                                                               {"child.vmdk", "parentCID"},
                                                               {"hint.vmdk", "parentFileNameHint"},
                                                               {"two.vmdk", "1536 bytes in 2 extents"},
                                                               {"beyond.vmdk", "from byte 512 on"},
                                                               {"overflow.vmdk", "damaged"},
                                                               {"escape.vmdk", "same folder"},
                                                               {"absolute.vmdk", "same folder"},
                                                               {"protocol.vmdk", "is not there"},
                                                               {"raw.vmdk", "VMFSRDM"},
                                                               {"zero.vmdk", "ZERO"},
                                                               {"closed.vmdk", "NOACCESS"},
                                                               {"linked.vmdk", "is a link"},
                                                               {"device.vmdk", "regular file"},
                                                               {"pipe.vmdk", "regular file"},
                                                               {"nosparse.vmdk", "no sparse VMDK"},
                                                               {"text.vmdk", "neither"},
                                                               {"small.vmdk", "has 1 bytes"},
                                                               {"missing.vmdk", "was not found"},
                                                               {"../flat-flat.vmdk", "below a datastore"},
                                                               {"", "below a datastore"}};
  for (const auto& [file, words] : cases) {
    const auto reason = made->refuses(disk(std::string("[ds] ") + file, 1024));
    ASSERT_TRUE(reason) << file;
    EXPECT_NE(reason->find(words), std::string::npos) << file << ": " << *reason;
    EXPECT_EQ(thrown([&] { made->serve(point_, disk(std::string("[ds] ") + file, 1024), {}); }).fault(),
              Fault::unsupported);
  }
  EXPECT_FALSE(made->refuses(disk("[ds] flat.vmdk", 1024)));
}

// A layer in qemu's own making: its parent stands in the descriptor inside the sparse file.
TEST_F(FileTransportTest, ASparseLayerAboveAnotherFile) {
  write("raw", slice(0, content_.size()));
  qemu_img({"convert", "-f", "raw", "-O", "vmdk", path("raw"), path("base.vmdk")});
  qemu_img({"create", "-f", "vmdk", "-b", path("base.vmdk"), "-F", "vmdk", path("layer.vmdk")});
  const auto reason = transport()->refuses(disk("[ds] layer.vmdk", content_.size()));
  ASSERT_TRUE(reason);
  EXPECT_NE(reason->find("layer above another file"), std::string::npos) << *reason;
}

}  // namespace vmferry::source::vmware::test
