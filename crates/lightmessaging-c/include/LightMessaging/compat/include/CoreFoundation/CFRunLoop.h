#include <LightMessaging/compat/corefoundation.h>
