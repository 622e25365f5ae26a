// mk makes what busybox cannot: sockets and extended attributes.
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>

static const unsigned char cap_net_bind_service[20] = {1, 0, 0, 2, 0, 4};

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	if (!strcmp(argv[1], "sock")) {
		struct sockaddr_un a = {.sun_family = AF_UNIX};
		strncpy(a.sun_path, argv[2], sizeof a.sun_path - 1);
		return bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof a);
	}
	if (!strcmp(argv[1], "cap"))
		return lsetxattr(argv[2], "security.capability", cap_net_bind_service, 20, 0);
	if (!strcmp(argv[1], "user"))
		return lsetxattr(argv[2], "user.note", "hello", 5, 0);
	return 2;
}
