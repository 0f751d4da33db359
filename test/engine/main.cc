#include "../check.h"

NEMOTRON_TEST_MAIN
