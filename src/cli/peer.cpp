#include "cli/peer.h"

#include "dropin/core/error.h"

namespace dropin::cli {
int bench_peer(const PeerSettings& s) { fail<OptionError>({"bench: --peer ", s.program, ": not yet"}); }
}  // namespace dropin::cli
