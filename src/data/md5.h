// MD5 (RFC 1321), to recognise published files; not for security.
#pragma once
#include <cstddef>
#include <string>

namespace dropin::detail {

/// 32 hexadecimal digits.
std::string md5(const void* data, std::size_t bytes);

}  // namespace dropin::detail
