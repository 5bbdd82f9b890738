#!/usr/bin/perl
# Answers with what this Debian is, by its own tools. Perl is part of the smallest one.
use strict;
use warnings;
use IO::Socket::INET;

my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 16, ReuseAddr => 1) or die "listen: $!";
print "serving on port 8080\n";
while (my $client = $server->accept) {
    while (my $line = <$client>) { last if $line =~ /^\r?$/ }
    open(my $version, '<', '/etc/debian_version') or die $!;
    my $release = <$version>;
    my $packages = grep { /^ii/ } qx(dpkg -l);
    my $broken = qx(dpkg --audit);
    my $body = "debian $release$packages packages\nuser ".getpwuid($<)."\naudit [$broken]\n";
    print $client "HTTP/1.0 200 OK\r\nContent-Length: ".length($body)."\r\n\r\n$body";
    close $client;
}
