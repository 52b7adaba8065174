#include <LightMessaging/compat/rocketbootstrap.h>
