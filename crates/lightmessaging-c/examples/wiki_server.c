/* The server of the page "LightMessaging" in the iPhone Development Wiki, with what its text does not
 * show: the directive, braces and main().
 *
 *     cc wiki_server.c $(pkg-config --cflags --libs lightmessaging) -o wiki_server
 *     ./wiki_server
 */
#define LIGHTMESSAGING_USE_ROCKETBOOTSTRAP 0
#import <LightMessaging/LightMessaging.h>

void some_callback(CFMachPortRef port,
                   LMMessage *request,
                   CFIndex size,
                   void *info)
{
	// get the reply port
	mach_port_t replyPort = request->head.msgh_remote_port;

	// sanity check
	if (size < sizeof(LMMessage)) {
		LMSendReply(replyPort, NULL, 0);
		LMResponseBufferFree((LMResponseBuffer *)request);
		return;
	}
	// get the data you recieved
	void *data = LMMessageGetData(request);

	// send some data back
	const char *msg = "lol";
	LMSendReply(replyPort, msg, strlen(msg) + 1);

	// free the response buffer??
	LMResponseBufferFree((LMResponseBuffer *)request);
}

int main(void)
{
	LMStartService("net.iphonedevwiki.some.server", CFRunLoopGetCurrent(), (CFMachPortCallBack)some_callback);
	CFRunLoopRun();
	return 0;
}
