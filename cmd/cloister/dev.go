package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/cloister-run/cloister/enclave/aws"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/keys"
)

const aboutDev = `Dev plays AWS on this machine, for local enclaves: a KMS with the API, the signatures and the
key policies of the real one. It is SIMULATED: whoever may read its folder has every key.`

const aboutDevKMS = `Kms serves a SIMULATED AWS KMS until it is interrupted. It prints where it listens, and a line
for every request on standard error, as CloudTrail would keep it. Keys stay in the folder
--home and are there again at the next start.

It offers CreateKey, DescribeKey, EnableKey, DisableKey, ListKeys, GetKeyPolicy, PutKeyPolicy,
GenerateDataKey, Encrypt and Decrypt, all for symmetric keys, to whoever has credentials of
cloister dev account. A policy that it cannot evaluate as AWS would is refused.`

const aboutDevAccount = `Account prints the credentials of an account of the SIMULATED AWS, for a shell, and makes them at
first use. They are of use to cloister dev kms with the same --home and to nothing else.`

const aboutDevKey = `Key makes a key in the SIMULATED KMS that AWS_ENDPOINT_URL_KMS names, with the credentials of
cloister dev account, and prints its ARN: what a bundle file has as key. cloister key-policy print
writes the policy. A real key is made with aws kms create-key --policy file://policy.json.`

// devRegion is the region of simulated keys, unless another is asked for.
const devRegion = "local"

func (a *app) devCommand() *cobra.Command {
	group := &cobra.Command{Use: "dev", Short: "Play AWS on this machine, SIMULATED", Long: aboutDev, Args: cobra.ArbitraryArgs, RunE: a.needsCommand}
	var home, listen, region string
	kms := &cobra.Command{
		Use: "kms", Short: "Serve a SIMULATED KMS", Long: aboutDevKMS, Args: noArguments,
		Example: "  cloister dev kms\n  export AWS_ENDPOINT_URL_KMS=http://127.0.0.1:4577   # in another shell",
		RunE:    func(c *cobra.Command, _ []string) error { return a.devKMS(c.Context(), home, listen) },
	}
	kms.Flags().StringVar(&listen, "listen", "127.0.0.1:4577", "the address to listen on; port 0 takes a free one")
	account := &cobra.Command{
		Use: "account ACCOUNT", Short: "Print credentials of a SIMULATED account", Long: aboutDevAccount,
		Example: `  eval "$(cloister dev account 111122223333)"`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("cloister dev account 111122223333", "%d accounts are named", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return a.devAccount(home, args[0], region) },
	}
	account.Flags().StringVar(&region, "region", devRegion, "the region of the keys")
	for _, c := range []*cobra.Command{kms, account} {
		c.Flags().StringVar(&home, "home", "", "the folder of the simulation; $XDG_STATE_HOME/cloister/dev by default")
	}
	var policy string
	key := &cobra.Command{
		Use: "key --policy FILE", Short: "Make a key in the SIMULATED KMS", Long: aboutDevKey, Args: noArguments,
		Example: "  cloister dev key --policy policy.json",
		RunE:    func(c *cobra.Command, _ []string) error { return a.devKey(c.Context(), policy) },
	}
	key.Flags().StringVar(&policy, "policy", "", "the file that holds the key policy (required)")
	group.AddCommand(kms, account, key)
	return group
}

// openDevHome opens the folder that is named, or the default one.
func openDevHome(dir string) (*devkit.Home, error) {
	var err error
	if dir == "" {
		if dir, err = devkit.DefaultHome(); err != nil {
			return nil, usage("name one with --home", "%v", err)
		}
	}
	home, err := devkit.OpenHome(dir)
	if err != nil {
		return nil, usage("--home names a folder that is yours alone, or one that can be made", "%v", err)
	}
	return home, nil
}

// devKMSReport is what `dev kms --json` prints once it listens.
type devKMSReport struct {
	Status    status `json:"status"`
	Simulated bool   `json:"simulated"`
	Endpoint  string `json:"endpoint"`
	Home      string `json:"home"`
}

// devKMS serves until ctx ends, which is how it is meant to end.
func (a *app) devKMS(ctx context.Context, dir, address string) error {
	home, err := openDevHome(dir)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return &failure{status: statusUnavailable, message: fmt.Sprintf("--listen %s: %v", address, err),
			hint: "another one may be running there; --listen 127.0.0.1:0 takes a free port"}
	}
	var log slog.Handler = slog.NewTextHandler(a.stderr, nil)
	endpoint := "http://" + listener.Addr().String()
	if a.json {
		log = slog.NewJSONHandler(a.stderr, nil)
		printJSON(a.stdout, devKMSReport{Status: statusDone, Simulated: true, Endpoint: endpoint, Home: home.Dir()})
	} else {
		say(a.stderr, "SIMULATED KMS: its keys are in %s, and protect nothing from who can read that\n", line(home.Dir()))
		say(a.stdout, "simulated KMS at %s\nexport AWS_ENDPOINT_URL_KMS=%s\n", endpoint, endpoint)
	}
	return devkit.NewKMS(home, slog.New(log)).Serve(ctx, listener)
}

// devAccountReport is what `dev account --json` prints.
type devAccountReport struct {
	Status          status `json:"status"`
	Simulated       bool   `json:"simulated"`
	Account         string `json:"account"`
	ARN             string `json:"arn"`
	Region          string `json:"region"`
	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
}

func (a *app) devAccount(dir, id, region string) error {
	if !regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`).MatchString(region) {
		return usage("one is lower-case letters, digits and dashes, such as local", "--region: %q is no region", region)
	}
	home, err := openDevHome(dir)
	if err != nil {
		return err
	}
	account, err := home.Account(id)
	if err != nil {
		return usage("cloister dev account 111122223333", "%v", err)
	}
	if a.json {
		printJSON(a.stdout, devAccountReport{Status: statusDone, Simulated: true, Account: account.ID, ARN: account.ARN, Region: region,
			AccessKeyID: account.AccessKeyID, SecretAccessKey: account.SecretAccessKey})
		return nil
	}
	say(a.stderr, "SIMULATED account %s: its credentials are for cloister dev kms alone\n", account.ARN)
	// The SDKs read AWS_REGION, the AWS CLI and boto3 AWS_DEFAULT_REGION.
	say(a.stdout, "export AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s AWS_REGION=%s AWS_DEFAULT_REGION=%s\nunset AWS_SESSION_TOKEN\n",
		account.AccessKeyID, account.SecretAccessKey, region, region)
	return nil
}

// devKeyReport is what `dev key --json` prints.
type devKeyReport struct {
	Status    status `json:"status"`
	Simulated bool   `json:"simulated"`
	Key       string `json:"key"`
}

func (a *app) devKey(ctx context.Context, policy string) error {
	if policy == "" {
		return usage("cloister dev key --policy policy.json; cloister key-policy print writes one", "no key policy is named")
	}
	text, err := client.ReadBounded(policy, aws.MaxKeyPolicy)
	if err != nil {
		return usage("name the file that holds the key policy", "--policy %s: %v", policy, err)
	}
	account, err := aws.Load(ctx, aws.Options{Partition: keys.PartitionDev})
	if err != nil {
		return cmp.Or(awsFailure(ctx, err), err)
	}
	key, err := account.CreateKey(ctx, text)
	if e, ok := errors.AsType[*aws.Error](err); ok && e.Code == "MalformedPolicyDocumentException" {
		return usage("cloister key-policy print writes one that it takes", "--policy %s: %v", policy, e)
	}
	if err != nil {
		return cmp.Or(awsFailure(ctx, err), err)
	}
	if a.json {
		printJSON(a.stdout, devKeyReport{Simulated: true, Key: key})
		return nil
	}
	say(a.stdout, "%s\n", line(key))
	return nil
}
