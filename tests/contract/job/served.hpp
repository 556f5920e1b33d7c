// A file as a copy source, by a real nbdkit.
#pragma once

#include <filesystem>
#include <memory>

#include "copy/copy.hpp"
#include "nbdkit/nbdkit.hpp"

namespace vmferry::job {

class Served final : public copy::Source {
 public:
  Served(nbdkit::Export server, std::uint64_t bytes) : server_(std::move(server)), bytes_(bytes) {}
  std::uint64_t bytes() const override { return bytes_; }
  std::unique_ptr<nbd::Handle> connect(std::stop_token) override {
    return std::make_unique<nbd::Handle>(server_.uri());
  }

 private:
  nbdkit::Export server_;
  std::uint64_t bytes_;
};

inline std::unique_ptr<copy::Source> serve_file(process::Runner& runner, const std::filesystem::path& file,
                                                const std::filesystem::path& directory, log::Log& log,
                                                std::stop_token stop) {
  nbdkit::Recipe recipe;
  recipe.plugin = "file";
  recipe.parameters = {{"file", file.string()}};
  return std::make_unique<Served>(nbdkit::serve(runner, recipe, directory, log, stop),
                                  std::filesystem::file_size(file));
}

}  // namespace vmferry::job
