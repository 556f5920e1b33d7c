// Which instance this host is: service, config drive, firmware, and what is said when none knows.
#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>

#include <fstream>

#include "openstack/instance.hpp"
#include "scripted.hpp"
#include "support/lab.hpp"
#include "support/thrown.hpp"

namespace vmferry::openstack {
namespace {

using support::has;
using support::thrown;

class OneAnswer final : public http::Transport {
 public:
  explicit OneAnswer(Answer act) : act_(std::move(act)) {}
  http::Response send(const http::Request& r, std::stop_token) override { return act_(r); }

 private:
  Answer act_;
};

TEST(Instance, TheHostsOwnIdOrAnExplanation) {
  OneAnswer good([](const http::Request&) {
    return answer(200, R"({"uuid":"83679162-1378-4288-a2d4-70e13ec132aa","name":"mover"})");
  });
  const support::TemporaryDirectory there;
  const InstanceSources sources = {"http://metadata/", there.path() / "config-2", there.path() / "dmi"};
  EXPECT_EQ(this_instance(good, sources, {}).value, "83679162-1378-4288-a2d4-70e13ec132aa");
  for (const Answer& act : std::vector<Answer>{[](const http::Request&) -> http::Response {
                                                 throw http::Broken(Fault::unavailable, "the connection was closed",
                                                                    false);
                                               },
                                               [](const http::Request&) { return answer(404, ""); },
                                               [](const http::Request&) { return answer(200, "<html>"); },
                                               [](const http::Request&) { return answer(200, "{}"); }}) {
    OneAnswer bad(act);
    const Error e = thrown([&] { this_instance(bad, sources, {}); });
    EXPECT_EQ(e.fault(), Fault::config);
    for (const char* part : {"http://metadata/", "config-2", "the firmware", "--instance-id"})
      EXPECT_TRUE(has(e.what(), part)) << part << ": " << e.what();
  }
}

TEST(Instance, WithoutTheServiceTheFirmwareTellsItWhenItIsOpenStacks) {
  const support::TemporaryDirectory there;
  OneAnswer silent([](const http::Request&) -> http::Response {
    throw http::Broken(Fault::unavailable, "the connection was closed", false);
  });
  const InstanceSources sources = {"http://metadata/", there.path() / "config-2", there.path()};
  const auto write = [&](const char* name, const char* text) { std::ofstream(there.path() / name) << text << "\n"; };
  write("product_uuid", "83679162-1378-4288-A2D4-70E13EC132AA");
  write("product_name", "VMware Virtual Platform");
  EXPECT_TRUE(has(thrown([&] { this_instance(silent, sources, {}); }).what(), "VMware Virtual Platform"));
  for (const char* product : {"OpenStack Nova", "OpenStack Compute"}) {
    write("product_name", product);
    EXPECT_EQ(this_instance(silent, sources, {}).value, "83679162-1378-4288-a2d4-70e13ec132aa");
  }
}

// An image as Nova makes it, except for the program.
void write_drive(const std::filesystem::path& path, const std::string& name, const std::string& text) {
  archive* out = archive_write_new();
  archive_write_set_format_iso9660(out);
  archive_write_set_options(out, "volume-id=config-2");
  ASSERT_EQ(archive_write_open_filename(out, path.c_str()), ARCHIVE_OK);
  archive_entry* entry = archive_entry_new();
  archive_entry_set_pathname(entry, name.c_str());
  archive_entry_set_filetype(entry, AE_IFREG);
  archive_entry_set_perm(entry, 0644);
  archive_entry_set_size(entry, static_cast<la_int64_t>(text.size()));
  ASSERT_EQ(archive_write_header(out, entry), ARCHIVE_OK);
  ASSERT_EQ(archive_write_data(out, text.data(), text.size()), static_cast<la_ssize_t>(text.size()));
  archive_entry_free(entry);
  ASSERT_EQ(archive_write_free(out), ARCHIVE_OK);
}

TEST(Instance, WithoutTheServiceTheConfigDriveTellsIt) {
  const support::TemporaryDirectory there;
  OneAnswer silent([](const http::Request&) { return answer(404, ""); });
  const InstanceSources sources = {"http://metadata/", there.path() / "drive.iso", there.path() / "dmi"};
  write_drive(sources.config_drive, "openstack/latest/meta_data.json",
              R"({"uuid":"5e7fca49-0000-4288-a2d4-70e13ec132aa"})");
  EXPECT_EQ(this_instance(silent, sources, {}).value, "5e7fca49-0000-4288-a2d4-70e13ec132aa");
  write_drive(sources.config_drive, "openstack/latest/user_data", "#cloud-config");
  EXPECT_TRUE(
      has(thrown([&] { this_instance(silent, sources, {}); }).what(), "has no openstack/latest/meta_data.json"));
  std::ofstream(sources.config_drive) << std::string(1 << 20, 'x');
  EXPECT_TRUE(has(thrown([&] { this_instance(silent, sources, {}); }).what(), "cannot be read as ISO 9660"));
}

}  // namespace
}  // namespace vmferry::openstack
