#include "library.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <utility>

namespace vddk {

namespace {

constexpr int newest = 9;
constexpr int oldest = 5;

std::string soname(int version) { return "libvixDiskLib.so." + std::to_string(version); }

}  // namespace

std::optional<Found> find_library(const std::string& libdir) {
  for (int version = newest; version >= oldest; --version)
    for (const std::string& folder : {libdir + "/lib64", libdir}) {
      const std::string file = folder + "/" + soname(version);
      if (access(file.c_str(), F_OK) == 0) return Found{file, folder, version};
    }
  return std::nullopt;
}

std::string nothing_found(const std::string& libdir) {
  // virt-v2v looks for the loader's words "cannot open shared object file" to tell its user what is missing.
  return "VDDK's library " + soname(newest) + " (down to .so." + std::to_string(oldest) + ") is neither in " + libdir +
         "/lib64 nor in " + libdir +
         " (cannot open shared object file); unpack VMware's VDDK and give its folder with libdir=";
}

bool Library::load(const Found& found, std::string& problem) {
  loaded = dlopen(found.file.c_str(), RTLD_NOW);
  if (loaded == nullptr) {
    const char* reason = dlerror();
    problem = found.file +
              " is there but cannot be loaded: " + (reason != nullptr ? reason : "the loader does not say why") +
              "; is this VDDK complete and made for this system?";
    return false;
  }
  version = found.version;
  std::string missing;
  const auto look = [&](auto*& function, const char* name, bool needed) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(loaded, name));
    if (function != nullptr)
      symbols.emplace_back(name);
    else if (needed)
      missing += (missing.empty() ? "" : ", ") + std::string(name);
  };
#define VDDK_NEEDED(name) look(name, "VixDiskLib_" #name, true)
#define VDDK_OPTIONAL(name) look(name, "VixDiskLib_" #name, false)
  VDDK_NEEDED(InitEx);
  VDDK_NEEDED(Exit);
  VDDK_NEEDED(GetErrorText);
  VDDK_NEEDED(FreeErrorText);
  VDDK_NEEDED(FreeConnectParams);
  VDDK_NEEDED(ConnectEx);
  VDDK_NEEDED(Disconnect);
  VDDK_NEEDED(Open);
  VDDK_NEEDED(Close);
  VDDK_NEEDED(GetTransportMode);
  VDDK_NEEDED(GetInfo);
  VDDK_NEEDED(FreeInfo);
  VDDK_NEEDED(Read);
  VDDK_OPTIONAL(AllocateConnectParams);
  VDDK_OPTIONAL(ReadAsync);
  VDDK_OPTIONAL(Wait);
  VDDK_OPTIONAL(QueryAllocatedBlocks);
  VDDK_OPTIONAL(FreeBlockList);
#undef VDDK_NEEDED
#undef VDDK_OPTIONAL
  if (missing.empty()) return true;
  problem = found.file + " is not a VDDK library that disks can be read with: it lacks " + missing;
  return false;
}

std::string Library::error_text(vix::Error error) const {
  char* text = GetErrorText(error, nullptr);
  std::string sentence = text != nullptr ? text : "unknown error";
  if (text != nullptr) FreeErrorText(text);
  return sentence + " (VDDK error " + std::to_string(vix::code(error)) + ")";
}

}  // namespace vddk
