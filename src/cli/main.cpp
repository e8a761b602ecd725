// dropin: list, describe, conform, train, generate, segment, index, bench, claims, devices.
#include "dropin/program.h"

int main(int argc, char** argv) { return dropin::run_program(argc, argv); }
