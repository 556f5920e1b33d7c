// One temporary folder and its files.
#include "source/vmware/private_folder.hpp"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.hpp"
#include "base/fd.hpp"

namespace vmferry::source::vmware {

PrivateFolder::PrivateFolder(const std::filesystem::path& directory, const std::string& prefix, std::string what)
    : directory_(std::filesystem::absolute(directory)), what_(std::move(what)) {
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  std::string name = (directory_ / (prefix + "-XXXXXX")).string();
  if (mkdtemp(name.data()) == nullptr) fail(errno);  // mkdtemp(3): mode 0700
  path_ = name;
}

PrivateFolder::~PrivateFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void PrivateFolder::write(const std::string& name, const std::string& text) const {
  const Fd fd(open((path_ / name).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) fail(errno);
  const ssize_t written = ::write(fd.get(), text.data(), text.size());
  if (written != static_cast<ssize_t>(text.size())) fail(written < 0 ? errno : ENOSPC);
}

void PrivateFolder::make_folder(const std::string& name) const {
  std::error_code error;
  std::filesystem::create_directory(path_ / name, error);
  if (error) fail(error.value());
}

void PrivateFolder::fail(int error) const {
  throw Error(Fault::config, fmt::format("cannot keep {} in {}: {}; make that folder writable", what_,
                                         directory_.string(), strerror(error)));
}

}  // namespace vmferry::source::vmware
