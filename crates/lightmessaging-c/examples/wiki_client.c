/* The client of the page "LightMessaging" in the iPhone Development Wiki, with what its text does not
 * show: the directive, the connection's initialiser, main() and what is done with the data.
 *
 * As the page's, it checks nothing: start wiki_server before it.
 *
 *     cc wiki_client.c $(pkg-config --cflags --libs lightmessaging) -o wiki_client
 *     ./wiki_client
 */
#define LIGHTMESSAGING_USE_ROCKETBOOTSTRAP 0
#import <LightMessaging/LightMessaging.h>
#include <stdio.h>

int main(void)
{
	// setup connection
	LMConnection connection = {
		MACH_PORT_NULL,
		"net.iphonedevwiki.some.server"
	};

	//send message
	LMResponseBuffer buffer;
	const char *msg = "lol wtf";
	SInt32 messageId = 0x1111; // this is arbitrary i think
	LMConnectionSendTwoWay(&connection, messageId, msg, strlen(msg) + 1, &buffer);
	LMMessage *response = &(buffer.message);

	// do whatever you want !!!!
	const char *data = (const char *)LMMessageGetData(response);
	puts(data);
	return 0;
}
