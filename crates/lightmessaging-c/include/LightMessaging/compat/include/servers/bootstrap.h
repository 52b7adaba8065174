#include <LightMessaging/compat/mach.h>
