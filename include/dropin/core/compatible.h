// Refuses, in one line, what would make the caller's standard library another one than dropin's.
#pragma once
#include <cstddef>

// The library defines these for its users where it was built so itself.
#if defined(_GLIBCXX_DEBUG) && !defined(DROPIN_WITH_GLIBCXX_DEBUG)
#error \
    "dropin: -D_GLIBCXX_DEBUG changes the layout of std::vector and std::string; build dropin with it too, or leave it out (-D_GLIBCXX_ASSERTIONS is fine)"
#endif
#if defined(_GLIBCXX_USE_CXX11_ABI) && !_GLIBCXX_USE_CXX11_ABI && !defined(DROPIN_WITH_OLD_ABI)
#error \
    "dropin: -D_GLIBCXX_USE_CXX11_ABI=0 gives another std::string than dropin was built with; build dropin with it too, or leave it out"
#endif
#if __cplusplus < 202002L
#error "dropin: needs C++20 (-std=c++20)"
#endif
