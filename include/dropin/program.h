// The program dropin as a function, for programs with components of their own: link dropin::main.
#pragma once

namespace dropin {

/// Runs `dropin list | describe | conform | train | bench | claims | devices` on the registry as it
/// is now; answers the program's exit status. Errors become one line on stderr.
int run_program(int argc, char** argv);

}  // namespace dropin
