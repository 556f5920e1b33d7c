// Overlays are whole images here, served by nbdkit.
#include "fake_converter.hpp"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <map>

#include "base/error.hpp"
#include "served.hpp"

namespace vmferry::job {

namespace {

constexpr ByteRange touched{70000, 5000};

class Images final : public convert::Conversion {
 public:
  std::map<model::DiskKey, std::filesystem::path> files;
  std::function<std::unique_ptr<copy::Source>(const std::filesystem::path&, std::stop_token)> serve;
  // Something at the volume's end too, where the source's disk has no bytes.
  RangeSet changed(model::DiskKey disk) const override {
    return RangeSet(std::vector<ByteRange>{touched, {std::filesystem::file_size(files.at(disk)) - 1024, 1024}});
  }
  std::unique_ptr<copy::Source> open(model::DiskKey disk, std::stop_token stop) override {
    return serve(files.at(disk), stop);
  }
};

}  // namespace

std::string FakeConverter::converted(std::string bytes) {
  for (std::size_t i = touched.offset; i < touched.end(); ++i) ++bytes.at(i);
  return bytes;
}

std::unique_ptr<convert::Conversion> FakeConverter::convert(const model::Vm&, const std::vector<convert::Disk>& disks,
                                                            const convert::Saying& saying, std::stop_token) {
  around("convert", false);
  saying("Converting a fake");
  if (fails) throw Error(Fault::tool, "this guest cannot be converted");
  auto images = std::make_unique<Images>();
  for (const convert::Disk& disk : disks) {
    std::ifstream base(disk.base, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(base), {}};
    const auto file = directory_.path() / fmt::format("{}-{}", conversions, disk.key.value);
    std::ofstream(file, std::ios::binary) << converted(bytes);
    images->files[disk.key] = file;
  }
  images->serve = [this](const std::filesystem::path& file, std::stop_token stop) {
    return serve_file(runner_, file, directory_.path(), log_, stop);
  };
  ++conversions;
  around("convert", true);
  return images;
}

}  // namespace vmferry::job
