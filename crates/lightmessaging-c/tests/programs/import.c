#import <LightMessaging/LightMessaging.h>
#import <LightMessaging/LightMessaging.h>

int main(void) {
    return LMBufferSizeForLength(0) == sizeof(LMMessage) ? 0 : 1;
}
