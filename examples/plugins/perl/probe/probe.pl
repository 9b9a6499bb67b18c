use strict; use warnings; use Cwd;
binmode STDOUT; binmode STDERR; $| = 1;
my ($word, @rest) = @ARGV;
if ($word eq 'args') { print "$_\0" for @rest }
elsif ($word eq 'env') { print "$_=$ENV{$_}\0" for keys %ENV }
elsif ($word eq 'dir') { print getcwd() }
elsif ($word eq 'print') { print STDOUT $rest[0]; print STDERR $rest[1] }
elsif ($word eq 'exit') { exit $rest[0] }
elsif ($word eq 'signal') { kill $rest[0], $$; sleep 60 }
elsif ($word eq 'fill') { print substr('0123456789abcdef' x ($rest[0] / 16 + 1), 0, $rest[0]) }
elsif ($word eq 'stdin') { local $/; my $in = <STDIN>; print length($in // '') }
elsif ($word eq 'wait') { wait_at($rest[0]) }
elsif ($word eq 'background') { exit 0 if fork; wait_at($rest[0]) }
else { die "no such word: $word\n" }
sub wait_at { open my $f, '>', $_[0] or die; syswrite $f, "ready\n"; sleep 3600 while 1 }
