// What this machine can do at best, measured in the run whose results are held against it.
#pragma once
#include <string>
#include <vector>

namespace dropin::evidence {

struct Limits {
  int threads = 1;
  double flops = 0;        ///< multiply-adds on registers, 2 per lane, per second on all threads
  double first_touch = 0;  ///< bytes per second into pages the system has not handed out before
  struct Triad {
    double bytes, rate;  ///< three arrays of this many bytes together, bytes per second
  };
  std::vector<Triad> triads;  ///< from the nearest cache to memory

  /// Bytes per second where this many bytes are in use.
  double bandwidth(double bytes) const;
  /// The least seconds for this arithmetic and these bytes.
  double least(double flops, double bytes) const;
};

/// About a second.
Limits measure_limits();

/// Of the processor, the memory, the system and the libraries: one line each, "name: value".
std::vector<std::pair<std::string, std::string>> describe_machine();

}  // namespace dropin::evidence
