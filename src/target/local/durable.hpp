// Small files that are either as they were or as they should be, whatever happens in between. Knows nothing
// of what is in them. Every failure is an Error that names the path; a full disk is Error(quota).
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace vmferry::target::local {

// Throws the Error that `problem` (an errno value) means for `doing` ("write", "create") on `path`.
[[noreturn]] void fail(const std::string& doing, const std::filesystem::path& path, int problem);

// Replaces the file by one with this text and mode 0600: temporary file, fsync, rename, fsync of the folder.
void write_durably(const std::filesystem::path& path, std::string_view text);
// Nothing when there is no such file.
std::optional<std::string> read_whole(const std::filesystem::path& path);
void sync_directory(const std::filesystem::path& directory);
// Makes the folder if it is missing; its parent must exist.
void make_directory(const std::filesystem::path& directory, unsigned mode = 0700);
// Removes the file durably; already gone is success.
void remove_durably(const std::filesystem::path& path);

}  // namespace vmferry::target::local
