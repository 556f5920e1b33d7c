// libvixDiskLib.so.N of whatever version lies in a VDDK folder, loaded at run time. Knows where it is looked for, what
// it must have, and what its own libraries need; not what is read with it.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "abi.hpp"

namespace vddk {

constexpr char default_libdir[] = "/usr/lib64/vmware-vix-disklib";

struct Found {
  std::string file;  // ".../lib64/libvixDiskLib.so.8"
  std::string folder;
  int version = 0;
};

// The newest library below `libdir` (in lib64/, or in the folder itself), or nothing.
std::optional<Found> find_library(const std::string& libdir);
// What was looked for and where, for the sentence that says that there is none.
std::string nothing_found(const std::string& libdir);

struct Library {
  // False with a sentence in `problem` when it cannot be loaded or lacks something that is needed.
  bool load(const Found& found, std::string& problem);
  std::string error_text(vix::Error error) const;

  void* loaded = nullptr;
  int version = 0;
  std::vector<std::string> symbols;  // that it has, of those below

  vix::InitEx* InitEx = nullptr;
  vix::Exit* Exit = nullptr;
  vix::GetErrorText* GetErrorText = nullptr;
  vix::FreeErrorText* FreeErrorText = nullptr;
  vix::FreeConnectParams* FreeConnectParams = nullptr;
  vix::ConnectEx* ConnectEx = nullptr;
  vix::Disconnect* Disconnect = nullptr;
  vix::Open* Open = nullptr;
  vix::Close* Close = nullptr;
  vix::GetTransportMode* GetTransportMode = nullptr;
  vix::GetInfo* GetInfo = nullptr;
  vix::FreeInfo* FreeInfo = nullptr;
  vix::Read* Read = nullptr;
  // Not in every version; null then.
  vix::AllocateConnectParams* AllocateConnectParams = nullptr;
  vix::ReadAsync* ReadAsync = nullptr;
  vix::Wait* Wait = nullptr;
  vix::QueryAllocatedBlocks* QueryAllocatedBlocks = nullptr;
  vix::FreeBlockList* FreeBlockList = nullptr;
};

// VDDK brings its own libssl, libstdc++ and others, and loads more of itself by their bare names. The loader finds them
// only by LD_LIBRARY_PATH as it was when the process began ("VixDiskLib loads many libraries ... using the Path or
// LD_LIBRARY_PATH environment", VDDK Programming Guide, Initialize the Library). So the process starts itself again
// with `folder` in it, once. `secrets` are key=value parameters that came by a file or descriptor which cannot be read
// a second time; they are handed on in anonymous memory. Returns when nothing had to be done; exits when it cannot be.
void start_again_with(const std::string& folder, const std::vector<std::pair<std::string, std::string>>& secrets);
// To be called first of all: at the second start it makes LD_LIBRARY_PATH what it was, for programs started from here
// (nbdkit --run).
void restore_environment();

}  // namespace vddk
