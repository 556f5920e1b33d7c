// Times and other people's words, made fit for the evidence. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace vmferry::report {

// Of milliseconds since the epoch, in UTC: "2026-03-01T17:26:24.123Z", and for eyes "2026-03-01 17:26:24 UTC".
std::string iso_time(std::int64_t ms);
std::string plain_time(std::int64_t ms);
// Fit for HTML's text and attribute values, in single or double quotes: no character of it means anything there, and
// what is no UTF-8, or a control character, becomes U+FFFD.
std::string escaped(std::string_view text);
// One word for a shell, whatever is in it.
std::string shell_word(std::string_view text);

}  // namespace vmferry::report
