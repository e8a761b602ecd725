// dropin bench --peer: rows against a program of another library.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace dropin::cli {

struct PeerSettings {
  std::string program;
  std::vector<std::string> names;
  std::string json, plot, filter;
  int64_t rounds = 5;
  double min_time = 0.02;
};
int bench_peer(const PeerSettings& s);

}  // namespace dropin::cli
